"""What a prompt says of its labels without a text, taken off what it says of one."""

import pytest
import torch

from graftlm.prompts import _calibration as calibration


def test_contextual_calibration_divides_by_the_mean_without_content() -> None:
    blank = torch.tensor([[0.718, 0.282], [0.518, 0.482]]).log() + torch.tensor([[3.0], [-1.0]])
    found = calibration.calibrated(torch.tensor([[0.6, 0.4]]).log() + 2, calibration.before(blank))
    assert found.exp()[0].tolist() == pytest.approx([0.9709, 1.0471], abs=1e-4)
    assert int(found.argmax()) == 1


def test_pmi_takes_one_empty_text_and_the_contextual_way_three() -> None:
    assert calibration.empty_texts("pmi", "[MASK]") == ("",)
    assert calibration.empty_texts("contextual", "[MASK]") == ("N/A", "", "[MASK]")
    assert calibration.empty_texts("contextual", None) == ("N/A", "")


def test_the_vocabulary_beside_the_labels_changes_no_order() -> None:
    text, blank = torch.tensor([[2.0, 1.0, 0.5, -1.0]]), torch.tensor([[1.5, -0.5, 1.0, 0.0]])
    pmi = (text.log_softmax(-1) - blank.log_softmax(-1))[:, :2]
    found = calibration.calibrated(text[:, :2], calibration.before(blank[:, :2]))
    torch.testing.assert_close(found[:, 0] - found[:, 1], pmi[:, 0] - pmi[:, 1])
