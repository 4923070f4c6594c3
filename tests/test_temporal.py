import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import OneClassSVM
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from skavid.model_selection import NoveltyKFold
from skavid.temporal import TemporalStacker, causal_mean, concatenate_clips, count_still

# Rows are moments of a clip: what a stack holds depends on the rows before it.
STATEFUL = {
    "check_methods_subset_invariance": "a stack holds the frames before it",
    "check_methods_sample_order_invariance": "the order of the frames is the order of time",
}


@parametrize_with_checks(
    [TemporalStacker(), TemporalStacker(n_channels=1, average=False, dtype="float32")],
    expected_failed_checks=lambda stacker: STATEFUL if stacker.n_channels > 1 else {},
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_scikit_learn_finds_many_checks_to_run():
    assert len(list(estimator_checks_generator(TemporalStacker()))) >= 45


def slow_stack(frames, n_channels, spacing, average, groups):
    """Compute Sec. 3.5 element by element: grey frames (n, H, W) to (n, H, W, n_channels)."""
    rounded = frames.dtype == np.uint8

    def frame(t, first):
        return frames[max(t, first)].astype(np.float64)

    def moment(t, first):
        if not average:
            return frame(t, first)
        mean = (frame(t, first) + frame(t - 1, first)) / 2
        return np.floor(mean + 0.5) if rounded else mean

    stacks = []
    for t in range(len(frames)):
        first = next(s for s in range(len(frames)) if groups[s] == groups[t])
        lags = [spacing * channel for channel in reversed(range(n_channels))]
        stacks.append(np.stack([moment(t - lag, first) for lag in lags], axis=-1))
    return np.array(stacks).astype(np.uint8 if rounded else np.float32)


def some_frames(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


parameters = st.fixed_dictionaries(
    {"n_channels": st.integers(1, 4), "spacing": st.integers(1, 3), "average": st.booleans()}
)
clip_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(
    parameters=parameters,
    lengths=clip_lengths,
    dtype=st.sampled_from([np.uint8, np.float32, np.float64, np.uint16, bool]),
    block=st.integers(1, 500),
)
def test_stacks_are_section_3_5_in_blocks_of_any_size(parameters, lengths, dtype, block):
    groups = np.repeat(list("abcd")[: len(lengths)], lengths)
    frames = some_frames((len(groups), 3, 2), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skavid.temporal._BLOCK_BYTES", block)
        stacks = TemporalStacker(**parameters).fit_transform(frames, groups=groups)
    expected = slow_stack(frames, **parameters, groups=groups)
    assert stacks.dtype == expected.dtype
    assert np.array_equal(stacks, expected)


@settings(deadline=None, max_examples=30)
@given(parameters=parameters, lengths=clip_lengths)
def test_clips_together_are_clips_alone(parameters, lengths):
    clips = [some_frames((length, 3, 2), seed=length) for length in lengths]
    stacker = TemporalStacker(**parameters)
    alone = [stacker.fit_transform(clip) for clip in clips]
    frames, groups = concatenate_clips(clips)
    assert np.array_equal(stacker.fit_transform(frames, groups=groups), np.concatenate(alone))


@settings(deadline=None, max_examples=30)
@given(parameters=parameters, length=st.integers(1, 12), dtype=st.sampled_from(["u1", "f4"]))
def test_a_stream_gives_the_same_numbers(parameters, length, dtype):
    stacker = TemporalStacker(**parameters)
    stream = stacker.stream()
    for seed in range(2):
        frames = some_frames((length, 3, 2, 3), dtype, seed)
        pushed = np.array([stream.push(frame) for frame in frames])
        stacks = stacker.fit_transform(frames)
        assert pushed.dtype == stacks.dtype
        assert np.array_equal(pushed, stacks)
        stream.reset()


@settings(deadline=None, max_examples=30)
@given(parameters=parameters, lengths=clip_lengths)
def test_padded_stacks_are_those_that_change_with_what_came_before(parameters, lengths):
    frames, groups = concatenate_clips([some_frames((n, 2, 2), "f4", seed=n) for n in lengths])
    stacker = TemporalStacker(**parameters)
    padded = stacker.is_padded(frames, groups=groups)
    alone = stacker.fit_transform(frames, groups=groups)
    # Give each clip a past: far brighter frames, which show wherever a stack reaches them.
    for clip in range(len(lengths)):
        past = np.full((20, 2, 2), 1e4, dtype="f4")
        longer = stacker.fit_transform(np.concatenate([past, frames[groups == clip]]))[20:]
        changed = (longer != alone[groups == clip]).any(axis=(1, 2, 3))
        assert np.array_equal(changed, padded[groups == clip])


def test_the_papers_stack_is_printed_so():
    frames = np.arange(10.0).reshape(10, 1, 1) ** 2
    stack = TemporalStacker().fit_transform(frames)[9, 0, 0]
    assert stack.tolist() == [(25 + 16) / 2, (49 + 36) / 2, (81 + 64) / 2]


def test_uint8_means_are_rounded_half_up_and_float32_is_exact():
    frames = np.array([0, 1, 254, 255], dtype=np.uint8).reshape(4, 1, 1)
    rounded = TemporalStacker(n_channels=1).fit_transform(frames)
    assert rounded.ravel().tolist() == [0, 1, 128, 255]
    exact = TemporalStacker(n_channels=1, dtype="float32").fit_transform(frames)
    assert exact.dtype == np.float32
    assert exact.ravel().tolist() == [0, 0.5, 127.5, 254.5]


def test_colour_is_reduced_to_luma():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], dtype=np.uint8)
    frames = colours.reshape(4, 1, 1, 3)
    stacker = TemporalStacker(n_channels=1, average=False)
    assert stacker.fit_transform(frames).ravel().tolist() == [76, 150, 29, 9]
    floats = stacker.fit_transform(frames.astype(float)).ravel()
    assert np.allclose(floats, [76.245, 149.685, 29.07, 9])
    assert floats.dtype == np.float32


@pytest.mark.parametrize("colour", [False, True])
def test_flat_rows_give_flat_rows(colour):
    frames = some_frames((7, 4, 5, 3) if colour else (7, 4, 5))
    rows = frames.reshape(7, -1)
    stacker = TemporalStacker(image_shape=(4, 5, 3) if colour else (4, 5))
    expected = TemporalStacker().fit_transform(frames)
    assert np.array_equal(stacker.fit_transform(rows), expected.reshape(7, 60))
    assert np.array_equal(stacker.stream().push(rows[0]), expected[0])
    assert stacker.transform(frames).shape == (7, 4, 5, 3)


def test_another_frame_size_may_be_stacked():
    stacker = TemporalStacker().fit(some_frames((3, 4, 5)))
    assert stacker.transform(some_frames((3, 6, 7))).shape == (3, 6, 7, 3)


def test_rows_without_a_shape_are_lines():
    rows = some_frames((6, 7))
    expected = TemporalStacker().fit_transform(rows[:, np.newaxis])
    assert np.array_equal(TemporalStacker().fit_transform(rows), expected.reshape(6, 21))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("flat", [False, True])
def test_stacks_go_where_they_are_told(order, flat):
    frames = some_frames((7, 20) if flat else (7, 4, 5))
    stacker = TemporalStacker(image_shape=(4, 5))
    expected = stacker.fit_transform(frames)
    out = np.empty(expected.shape, dtype=np.uint8, order=order)
    assert stacker.transform(frames, out=out) is out
    assert np.array_equal(out, expected)
    assert stacker.fit_transform(frames, out=out) is out


def test_memory_is_bounded_from_memory_map_to_memory_map(tmp_path, monkeypatch):
    frames = np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.uint8, (400, 64, 64))
    frames[:] = some_frames((400, 64, 64))
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.uint8, (400, 64, 64, 3))
    monkeypatch.setattr("skavid.temporal._BLOCK_BYTES", 2**17)
    stacker = TemporalStacker().fit(frames)
    tracemalloc.start()
    stacker.transform(frames, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < frames.nbytes / 4
    expected = slow_stack(np.asarray(frames[-9:]), 3, 2, True, np.zeros(9))[5:]
    assert np.array_equal(out[-4:], expected)


def test_frames_are_never_changed():
    frames = some_frames((7, 4, 5), np.float32)
    frames.flags.writeable = False
    TemporalStacker(n_channels=1, average=False).fit_transform(frames)[:] = 0


# Names -------------------------------------------------------------------------------------------


def test_columns_are_named_by_pixel_and_moment():
    frame = pd.DataFrame(some_frames((6, 2), np.float32), columns=["left", "right"])
    stacker = TemporalStacker(n_channels=2).set_output(transform="pandas")
    stacked = stacker.fit_transform(frame)
    assert list(stacked.columns) == ["left_t-2", "left_t", "right_t-2", "right_t"]
    averaged = [(frame["right"][t] + frame["right"][t - 1]) / 2 for t in (3, 5)]
    assert stacked.loc[5, ["right_t-2", "right_t"]].tolist() == averaged


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 4, 6, 3)])
def test_stacks_of_images_do_not_go_into_a_data_frame(container, shape):
    message = (
        f"X has the shape {shape}, and a {container} data frame cannot hold its stacks; pass flat "
        "rows and image_shape=(4, 6), or set_output(transform='default')."
    )
    stacker = TemporalStacker().set_output(transform=container)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stacker.fit_transform(some_frames(shape))
    with config_context(transform_output=container):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            TemporalStacker().fit_transform(some_frames(shape))
        stacks = stacker.set_output(transform="default").fit_transform(some_frames(shape))
    assert stacks.shape == (5, 4, 6, 3)


def test_a_colour_pixel_has_its_first_channels_name():
    stacker = TemporalStacker(n_channels=1).fit(some_frames((6, 1, 2, 3)))
    assert list(stacker.get_feature_names_out()) == ["x0_t", "x3_t"]
    assert list(stacker.get_feature_names_out(list("abcdef"))) == ["a_t", "d_t"]


# Inside scikit-learn -----------------------------------------------------------------------------


def video_with_events():
    """Eight clips of flat rows; the last four flicker at their end."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 6))
    groups = np.repeat(np.arange(8), 10)
    y = np.where((groups >= 4) & (np.arange(80) % 10 >= 7), -1, 1)
    X[y == -1] += np.where(np.arange(np.sum(y == -1)) % 2, 6, -6)[:, np.newaxis]
    return X, y, groups


def test_a_pipeline_routes_groups_by_default():
    X, _, groups = video_with_events()
    pipeline = Pipeline([("stack", TemporalStacker(image_shape=(2, 3))), ("svm", OneClassSVM())])
    stacks = TemporalStacker(image_shape=(2, 3)).fit_transform(X, groups=groups)
    expected = OneClassSVM().fit(stacks).decision_function(stacks)
    with config_context(enable_metadata_routing=True):
        pipeline.fit(X, groups=groups)
        assert np.array_equal(pipeline.decision_function(X, groups=groups), expected)
        assert np.array_equal(pipeline.predict(X, groups=groups), np.where(expected >= 0, 1, -1))
        # Transformers behind each other are routed by fit_transform.
        double = Pipeline([*pipeline.steps[:1], ("scale", MinMaxScaler())])
        scaled = MinMaxScaler().fit_transform(stacks)
        assert np.array_equal(double.fit_transform(X, groups=groups), scaled)


def test_routing_asks_for_groups_and_never_for_out():
    with config_context(enable_metadata_routing=True):
        routing = TemporalStacker().get_metadata_routing()
        assert routing.consumes("fit", {"groups"}) == {"groups"}
        assert routing.consumes("transform", {"groups", "out"}) == {"groups"}


def test_a_search_that_loses_the_groups_fails_aloud():
    X, y, groups = video_with_events()
    pipeline = Pipeline([("stack", TemporalStacker()), ("svm", OneClassSVM())])
    search = GridSearchCV(
        pipeline, {"svm__nu": [0.1]}, cv=NoveltyKFold(2), scoring="roc_auc", error_score="raise"
    )
    with (
        config_context(enable_metadata_routing=True),
        pytest.raises(ValueError, match="needs them here, too"),
    ):
        search.fit(X, y, groups=groups)


def test_stacking_before_a_search_keeps_clips_apart():
    X, y, groups = video_with_events()
    stacks = TemporalStacker().fit_transform(X, groups=groups)
    scores = cross_val_score(
        OneClassSVM(), stacks, y, groups=groups, cv=NoveltyKFold(2), scoring="roc_auc"
    )
    assert np.all(scores > 0.7)


def test_without_routing_fit_parameters_reach_fit_and_transform():
    X, _, groups = video_with_events()
    pipeline = Pipeline([("stack", TemporalStacker()), ("scale", MinMaxScaler())])
    scaled = pipeline.fit_transform(X, stack__groups=groups)
    stacks = TemporalStacker().fit_transform(X, groups=groups)
    assert np.array_equal(scaled, MinMaxScaler().fit_transform(stacks))


# Errors ------------------------------------------------------------------------------------------

WITH_GROUPS = (
    "TemporalStacker was fitted with groups and needs them here, too, to keep clips apart; pass "
    "groups=, zeros for a single clip, or stack before the search."
)
TORN = (
    "groups must keep the rows of a clip together, but those of 'a' are interrupted; sort all "
    "arrays by clip, and by time within it."
)


@pytest.mark.parametrize("method", ["fit", "fit_transform", "is_padded"])
def test_a_torn_clip_is_refused(method):
    with pytest.raises(ValueError, match=re.escape(TORN)):
        getattr(TemporalStacker(), method)(some_frames((4, 2, 2)), groups=list("aaba"))


def test_a_torn_clip_is_refused_in_transform():
    frames = some_frames((4, 2, 2))
    with pytest.raises(ValueError, match=re.escape(TORN)):
        TemporalStacker().fit(frames).transform(frames, groups=list("abba"))


@pytest.mark.parametrize("method", ["fit", "fit_transform", "is_padded"])
def test_groups_of_another_length_are_refused(method):
    message = "Found input variables with inconsistent numbers of samples: [4, 3]"
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(TemporalStacker(), method)(some_frames((4, 2, 2)), groups=[0, 0, 0])


def test_groups_of_another_length_are_refused_in_transform():
    frames = some_frames((4, 2, 2))
    message = "Found input variables with inconsistent numbers of samples: [4, 3]"
    with pytest.raises(ValueError, match=re.escape(message)):
        TemporalStacker().fit(frames).transform(frames, groups=[0, 0, 0])


def test_clips_are_never_mixed_in_silence():
    frames = some_frames((4, 2, 2))
    stacker = TemporalStacker().fit(frames, groups=[0, 0, 1, 1])
    with pytest.raises(ValueError, match=re.escape(WITH_GROUPS)):
        stacker.transform(frames)
    stacker.transform(frames, groups=np.zeros(4))
    stacker.fit(frames).transform(frames)


def two_clips():
    """Return two clips of one scene, each with a walker, far apart."""
    frames = np.random.default_rng(0).normal(100, 1, size=(40, 12, 30)).astype(np.float32)
    for t in range(20):
        frames[t, 2:10, t // 2 : t // 2 + 4] += 50
        frames[20 + t, 2:10, 25 - t // 2 : 29 - t // 2] -= 50
    return frames, np.repeat([0, 1], 20)


def test_an_abrupt_change_without_groups_is_warned_of():
    frames, clips = two_clips()
    message = (
        "X changes at frame 20 more than 4 times as much as usual, as at the beginning of a "
        "clip; if there are several clips, pass groups= (inside a Pipeline by metadata routing), "
        "so that no stack mixes clips. Zeros declare a single clip."
    )
    stacker = TemporalStacker().fit(frames)
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        stacker.transform(frames)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="as at the beginning of a clip"):
        Pipeline([("stack", TemporalStacker()), ("same", None)]).fit_transform(frames)
    for groups in (clips, np.zeros(40)):
        TemporalStacker().fit_transform(frames, groups=groups)
    stacker.transform(frames[:20])


def test_a_refused_fit_leaves_the_stacker_as_it_was():
    stacker = TemporalStacker().fit(some_frames((4, 2, 2)))
    before = dict(vars(stacker))
    message = "X has images of 2 channels, but TemporalStacker takes 1 or 3; convert them first."
    with pytest.raises(ValueError, match=re.escape(message)):
        stacker.fit(some_frames((4, 5, 5, 2)), groups=[0, 0, 1, 1])
    assert vars(stacker) == before


def test_an_unfitted_stacker_says_so():
    with pytest.raises(NotFittedError):
        TemporalStacker().transform(some_frames((4, 2, 2)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"n_channels": 0},
            "The 'n_channels' parameter of TemporalStacker must be an int in the range [1, inf). "
            "Got 0 instead.",
        ),
        (
            {"dtype": "float64"},
            "The 'dtype' parameter of TemporalStacker must be a str among {'float32'} or None. "
            "Got 'float64' instead.",
        ),
    ],
)
@pytest.mark.parametrize("use", [lambda s: s.fit(some_frames((4, 2, 2))), TemporalStacker.stream])
def test_wrong_parameters_are_refused(parameters, message, use):
    with pytest.raises(ValueError, match=re.escape(message)):
        use(TemporalStacker(**parameters))


def test_values_beyond_float32_are_refused():
    message = "X holds values too large for float32; rescale it first."
    with pytest.raises(ValueError, match=re.escape(message)):
        TemporalStacker().fit_transform(np.full((2, 2, 2), 1e300))


def read_only():
    out = np.empty((4, 2, 2, 3), dtype=np.uint8)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([], TypeError, "out must be an ndarray. Got list."),
        (
            np.empty((4, 2, 2, 1), dtype=np.uint8),
            ValueError,
            "out must have shape (4, 2, 2, 3) and dtype uint8. Got (4, 2, 2, 1) and uint8.",
        ),
        (
            np.empty((4, 2, 2, 3)),
            ValueError,
            "out must have shape (4, 2, 2, 3) and dtype uint8. Got (4, 2, 2, 3) and float64.",
        ),
        (
            read_only(),
            ValueError,
            "out is read-only; open it for writing, such as with mode='r+'.",
        ),
    ],
)
def test_what_cannot_hold_the_stacks_is_refused(out, error, message):
    frames = some_frames((4, 2, 2))
    with pytest.raises(error, match=re.escape(message)):
        TemporalStacker().fit(frames).transform(frames, out=out)


def test_stacks_never_overwrite_their_frames():
    memory = np.zeros((4, 2, 2, 4), dtype=np.uint8)
    stacker = TemporalStacker().fit(memory[..., 3])
    message = "out must not share memory with X; pass a separate array."
    with pytest.raises(ValueError, match=re.escape(message)):
        stacker.transform(memory[..., 3], out=memory[..., :3])


def test_a_stream_refuses_another_kind_of_frame_until_reset():
    stream = TemporalStacker().stream()
    stream.push(np.zeros((2, 3)))
    message = (
        "frame has shape (3, 3, 1) and dtype float64, but this stream began with (2, 3, 1) and "
        "float64; call reset() before another clip."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        stream.push(np.zeros((3, 3)))
    stream.reset()
    assert stream.push(np.zeros((3, 3))).shape == (3, 3, 3)


def test_a_refused_frame_leaves_a_stream_as_it_was():
    stacker = TemporalStacker()
    frames = some_frames((5, 2, 3))
    stream = stacker.stream()
    stream.push(frames[0])
    with pytest.raises(ValueError, match="NaN"):
        stream.push(np.full((2, 3), np.nan))
    last = [stream.push(frame) for frame in frames[1:]][-1]
    assert np.array_equal(last, stacker.fit_transform(frames)[-1])


def test_a_stream_keeps_the_parameters_it_began_with():
    stacker = TemporalStacker(n_channels=2)
    stream = stacker.stream()
    stacker.set_params(n_channels=5)
    assert stream.push(np.zeros((2, 3))).shape == (2, 3, 2)
    assert not hasattr(clone(stacker), "n_features_in_")


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "clips must hold at least one clip. Got none."),
        ([np.zeros(3)], "Each clip must be a stack of frames. Got shape (3,) for clip 0."),
        (
            [np.zeros((2, 4, 4)), np.zeros((2, 4, 5))],
            "Clip 1 has frames of shape (4, 5) and dtype float64, but clip 0 has (4, 4) and "
            "float64; convert them first.",
        ),
        (
            [np.zeros((2, 4, 4), dtype=np.uint8), np.zeros((2, 4, 4))],
            "Clip 1 has frames of shape (4, 4) and dtype float64, but clip 0 has (4, 4) and "
            "uint8; convert them first.",
        ),
    ],
)
def test_clips_that_differ_are_refused(clips, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        concatenate_clips(clips)


# --- smoothing over time ------------------------------------------------------------------------


@given(
    clips=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    n_frames=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_each_frame_is_averaged_with_the_frames_of_its_clip_before_it(clips, n_frames, seed):
    groups = np.repeat(np.arange(len(clips)), clips)
    maps = np.random.default_rng(seed).normal(size=(len(groups), 2, 3)).astype(np.float32)
    means = causal_mean(maps, n_frames, groups=groups)
    for t, clip in enumerate(groups):
        before = [s for s in range(max(0, t - n_frames + 1), t + 1) if groups[s] == clip]
        np.testing.assert_allclose(means[t], maps[before].mean(0), atol=1e-5)


@pytest.mark.parametrize("n_frames", [0, 1.5])
def test_a_number_of_frames_that_is_none_is_refused(n_frames):
    message = f"n_frames must be a whole number above 0. Got {n_frames}."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        causal_mean([1.0, 2.0], n_frames)


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 5))
def test_stacks_without_any_change_are_counted_in_a_row(changes, before):
    stacks = np.ones((len(changes), 3, 3, 2))
    stacks[np.flatnonzero(changes), 1, 2, 0] = 2
    expected, count = [], before
    for change in changes:
        count = 0 if change else count + 1
        expected.append(count)
    assert count_still(stacks, before=before).tolist() == expected
    changing = np.zeros((3, 3), bool)
    stacks[:, 0, 0, 1] = 5
    assert not count_still(stacks, before=before).any()
    changing[0, 0] = True
    assert count_still(stacks, before=before, ignore_mask=changing).tolist() == expected
