"""Makes tensorboard.tfevents with the Python package TensorBoard, and reads it back.

    pip install tensorboard
    python tensorboard.py            makes the golden beside this script
    python tensorboard.py FOLDER     reads the event files of a run's folder, and says what TensorBoard finds in them
"""

import struct
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent.resolve()
# This file must not be what `import tensorboard` finds.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: E402
from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: E402

NUMBERS = {
    "train/loss": 0.5,
    "train/loss_ema": 0.75,
    "train/gradient_norm": 1.25,
    "train/learning_rate": 0.001,
    "speed/images_per_second": 420.5,
    "speed/step_ms": 300.0,
    "speed/waited_ms": 0.5,
    "coupling/coupling_ms": 0.25,
    "coupling/coupling_visible_ms": 0.0625,
    "coupling/coupling_hidden_ms": 0.1875,
    "coupling/coupling_share_percent": 0.125,
    "coupling/distance_before": 12.0,
    "coupling/distance_after": 11.0,
    "coupling/distance_drop_percent": 9.125,
    "coupling/coefficient": 0.375,
    "coupling/energy": 1.0,
    "coupling/alignment": 3.5,
    "coupling/mean_shift": 1.0625,
}


def png(width, height):
    """A grey picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x80" * 3 * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def make():
    picture = png(2, 3)
    (HERE / "pixel.png").write_bytes(picture)
    image = Summary.Image(height=3, width=2, colorspace=3, encoded_image_string=picture)
    numbers = [Summary.Value(tag=tag, simple_value=value) for tag, value in NUMBERS.items()]
    events = [
        Event(wall_time=1_700_000_000.25, file_version="brain.Event:2"),
        Event(wall_time=1_700_000_000.25, step=201, session_log=SessionLog(status=SessionLog.START)),
        Event(wall_time=1_700_000_001.5, step=250, summary=Summary(value=numbers)),
        Event(
            wall_time=1_700_000_002.0,
            step=250,
            summary=Summary(value=[Summary.Value(tag="samples", image=image)]),
        ),
    ]
    path = HERE / "tensorboard.tfevents"
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString(deterministic=True))
        writer.flush()
    found = EventAccumulator(str(path)).Reload()
    assert {tag: found.Scalars(tag)[0].value for tag in found.Tags()["scalars"]} == {
        tag: struct.unpack("f", struct.pack("f", value))[0] for tag, value in NUMBERS.items()
    }
    [picture_found] = found.Images("samples")
    assert (picture_found.step, picture_found.width, picture_found.height) == (250, 2, 3)
    assert picture_found.encoded_image_string == picture


def tell(folder):
    found = EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0}).Reload()
    for tag in found.Tags()["scalars"]:
        events = found.Scalars(tag)
        steps = [event.step for event in events]
        assert steps == sorted(set(steps)), (tag, steps)
        print(f"{tag:36} {len(events):6} values, steps {steps[0]} to {steps[-1]}, the last {events[-1].value:g}")
    for tag in found.Tags()["images"]:
        for event in found.Images(tag):
            print(f"{tag:36} step {event.step}: {event.width}x{event.height}, {len(event.encoded_image_string)} bytes")


if __name__ == "__main__":
    make() if len(sys.argv) == 1 else tell(sys.argv[1])
