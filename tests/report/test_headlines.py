"""Headlines: the tightest likelihood, errors next to their baselines, and latents where no samples were evaluated."""

from __future__ import annotations

from types import ModuleType

from advae.report.headlines import make_headlines


def test_headlines_have_the_tightest_bound_and_a_ranked_sample_metric(fakes: ModuleType) -> None:
    estimates = [
        fakes.make_estimate("FID[a] of test data", 9.0, "baseline", metric="fid"),
        fakes.make_estimate("memorization[a]", 8.0, "diagnostic"),
        fakes.make_estimate("FID[a]", 7.0, metric="fid"),
        fakes.make_estimate("active units", 6.0, "diagnostic", "posterior", metric="active-units"),
        fakes.make_estimate("elbo", 5.0, "adversarial estimate", "likelihood"),
        fakes.make_estimate("bdmc lower", 4.0, "lower bound", "likelihood"),
        fakes.make_estimate("iwae-64", 3.0, "lower bound", "likelihood", metric="iwae"),
        fakes.make_estimate(
            "iwae-64 (bits/dim)", 2.0, "upper bound", "likelihood", metric="iwae", unit="bits/dim"
        ),
    ]
    likelihood, samples = make_headlines(estimates)
    assert likelihood.value.startswith("3.00") and "2.00" in likelihood.text
    assert samples.name == "FID[a]" and "9.00" in samples.text
    (adversarial,) = make_headlines(estimates[4:5])
    assert "not a bound" in adversarial.text


def test_reconstruction_error_is_next_to_its_baselines(fakes: ModuleType) -> None:
    of_table = {"metric": "rmse", "section": "reconstruction", "unit": "standard deviations"}
    estimates = [
        fakes.make_estimate("rmse", 0.31, **of_table),
        fakes.make_estimate("rmse (PCA-4)", 0.35, "baseline", variant="PCA-4", **of_table),
        fakes.make_estimate("rmse (mean example)", 1.0, "baseline", variant="mean example", **of_table),
    ]
    (headline,) = make_headlines(estimates)
    assert headline.value == "0.31 ± 0.10 standard deviations"
    assert "(4): 0.35" in headline.text and "1.00" in headline.text and "column" in headline.text


def test_latents_of_a_collapsed_model_are_not_compared_with_the_prior(fakes: ModuleType) -> None:
    def headline(active: float) -> str:
        of_posterior = {"kind": "diagnostic", "section": "posterior"}
        return make_headlines(
            [
                fakes.make_estimate(
                    "active units", active, metric="active-units", unit="of 8", **of_posterior
                ),
                fakes.make_estimate("C2ST accuracy", 0.5, metric="c2st", **of_posterior),
            ]
        )[0].text

    assert "classifier" in headline(3.0) and "classifier" not in headline(0.0)


def test_without_estimates_there_are_no_headlines() -> None:
    assert make_headlines([]) == []
