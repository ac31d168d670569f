"""What a run writes for other programs, read by them: TensorBoard's own reader, and Chromium without a window.

    python check.py IMMISCIBLE

Two small runs are trained. Their event files must say what metrics.jsonl says, and the report on both must be drawn without
asking the network for anything. Where there is no Chromium ($CHROMIUM names one), that half says so and is skipped.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SMALL = """model.block_out_channels=[8,8] model.norm_num_groups=4 model.attention_head_dim=4 train.batch_size=16
           train.log_every=2 sample.steps=3 sample.n=4 sample.every=4""".split()


def train(immiscible, folder, run, steps, *settings):
    arguments = [immiscible, "train", "--run", run]
    for setting in [*SMALL, f"train.steps={steps}", *settings]:
        arguments += ["--set", setting]
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)


def check_tensorboard(run):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8], lines
    tags = events.Tags()
    compared = 0
    for tag in tags["scalars"]:
        key = tag.split("/")[1]
        expected = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
        found = [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in expected], (tag, found, expected)
        for (step, value), (_, wanted) in zip(found, expected):
            assert abs(value - wanted) <= 1e-6 * abs(wanted), (tag, step, value, wanted)
            compared += 1
    for key in ["loss", "loss_ema", "gradient_norm", "learning_rate", "images_per_second", "distance_drop_percent"]:
        assert any(tag.endswith("/" + key) for tag in tags["scalars"]), (key, tags)
    assert tags["images"] == ["samples"], tags
    images = events.Images("samples")
    assert [image.step for image in images] == [4, 8], images
    for image in images:
        png = (run / f"samples/step-{image.step:08}.png").read_bytes()
        assert image.encoded_image_string == png
        assert Image.open(io.BytesIO(png)).size == (image.width, image.height)
    print(f"tensorboard: {compared} numbers of {len(tags['scalars'])} curves and {len(images)} pictures are those of the run")


def host(request):
    """Whom a proxy is asked for: `GET http://host/path` or `CONNECT host:443`."""
    words = request.split(" ")
    address = words[1] if len(words) > 1 else ""
    return urlsplit(address if "//" in address else "//" + address).hostname or ""


def chromium():
    names = ["chromium", "chromium-browser", "google-chrome", "chrome"]
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Proxy:
    """What Chromium wants of the network: the first line of every request, none of which is answered."""

    def __init__(self):
        self.asked = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            connection, _ = self.socket.accept()
            with connection:
                connection.settimeout(5)
                try:
                    self.asked.append(connection.recv(4096).split(b"\r\n")[0].decode(errors="replace"))
                except OSError:
                    self.asked.append("a connection without a request")


QUIET = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync
           --disable-component-update --disable-default-apps --disable-extensions --window-size=1200,2400
           --proxy-bypass-list=<-loopback>""".split()


def look(browser, page, folder, *more):
    """The page's document as Chromium understands it, or its picture; and what the page asked of the network. Chromium asks for
    hosts of its own, whatever the switches say; those that the page names are the page's."""
    proxy = Proxy()
    arguments = [browser, *QUIET, f"--proxy-server={proxy.address}", f"--user-data-dir={folder / 'profile'}", *more]
    output = subprocess.run([*arguments, page.as_uri()], capture_output=True, timeout=120, check=True)
    text = page.read_text()
    asked = [request for request in proxy.asked if host(request) and host(request) in text]
    return output.stdout.decode(errors="replace"), asked


def check_report(browser, immiscible, folder):
    subprocess.run([immiscible, "report", "runs/a", "runs/b"], cwd=folder, check=True, capture_output=True)
    # That this would be noticed: a page that asks for something.
    other = folder / "other.html"
    other.write_text('<!doctype html><title>x</title><img src="http://example.invalid/pixel.png">')
    _, asked = look(browser, other, folder, "--dump-dom")
    assert any("example.invalid" in request for request in asked), asked

    report = folder / "report.html"
    # It has no script that could put the name of a host together.
    assert "<script" not in report.read_text()
    document, asked = look(browser, report, folder, "--dump-dom")
    assert not asked, asked
    assert document.count("<svg") >= 7, document.count("<svg")
    for run in ["a", "b"]:
        assert document.count(f"<title>{run}") + document.count(f">{run}<") > 0, run
    picture = folder / "report.png"
    _, asked = look(browser, report, folder, f"--screenshot={picture}")
    assert not asked, asked
    shown = Image.open(picture).convert("RGB")
    # Text and lines, and the two colours that the curves of the two runs have.
    colours = {colour for count, colour in shown.getcolors(1 << 24) if count > 20 and max(colour) - min(colour) > 80}
    assert len(colours) >= 2, colours
    print(f"report: {document.count('<svg')} drawings in Chromium, {len(colours)} bright colours, no request")
    return picture


def main():
    immiscible = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # The first in two parts: TensorBoard joins their files.
        train(immiscible, folder, "a", 4)
        train(immiscible, folder, "a", 8)
        train(immiscible, folder, "b", 8, "seed=1")
        check_tensorboard(folder / "runs/a")
        browser = chromium()
        if browser is None:
            print("skipped: the report in a browser, for want of chromium in PATH or $CHROMIUM")
            return
        picture = check_report(browser, immiscible, folder)
        if len(sys.argv) > 2:
            shutil.copy(picture, sys.argv[2])


if __name__ == "__main__":
    main()
