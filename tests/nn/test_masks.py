import torch

from qkv.nn import causal_mask, combine_masks, padding_mask


def test_padding_mask_marks_the_real_tokens():
    mask = padding_mask(torch.tensor([3, 1, 0]))
    assert mask.tolist() == [[True, True, True], [True, False, False], [False, False, False]]


def test_padding_mask_can_be_longer_than_the_longest_row():
    mask = padding_mask(torch.tensor([1, 2]), max_length=4)
    assert mask.tolist() == [[True, False, False, False], [True, True, False, False]]


def test_causal_mask_sees_itself_and_the_past():
    mask = causal_mask(4)
    assert all(mask[query, key] == (key <= query) for query in range(4) for key in range(4))


def test_causal_queries_are_the_last_of_more_keys():
    assert torch.equal(causal_mask(2, 5), causal_mask(5)[-2:])


def test_masks_are_boolean_and_on_the_device_asked_for(device):
    for mask in (padding_mask(torch.tensor([2, 3], device=device)), causal_mask(3, device=device)):
        assert mask.dtype == torch.bool
        assert mask.device.type == device


def test_combined_masks_allow_what_all_allow():
    padding = padding_mask(torch.tensor([3, 2]))[:, None, :]
    combined = combine_masks(padding, None, causal_mask(3))
    assert combined is not None
    assert combined.shape == (2, 3, 3)
    for row, length in enumerate([3, 2]):
        for query in range(3):
            for key in range(3):
                assert combined[row, query, key] == (key < length and key <= query)


def test_no_mask_is_built_where_none_is_needed():
    mask = causal_mask(3)
    assert combine_masks(None, None) is None
    assert combine_masks(None, mask) is mask
