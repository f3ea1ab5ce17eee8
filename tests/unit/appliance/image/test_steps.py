"""What is judged of a build's steps; the steps themselves are the image's to prove."""

from appliance.image import steps


def test_what_is_wanted_alone_may_lack_what_it_asks_for_and_nothing_else_may() -> None:
    assert steps.unmet("No broken requirements found.\n") == ""
    alone = "websockify 0.13.0 requires numpy, which is not installed.\n"
    assert steps.unmet(alone) == ""
    wrong = "flask 3.1.3 has requirement click>=9, but you have click 8.5.1."
    assert steps.unmet(f"{alone}{wrong}\n") == wrong
    assert steps.unmet("pip itself went wrong\n") == "pip itself went wrong"
