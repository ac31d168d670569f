//! What a run shows: its log, TensorBoard's files, the report and the GIF.

use immiscible_train::Record;
use std::fs;
use std::path::Path;

mod common;

use common::{immiscible, refused, succeed, text};

const CONFIG: &str = include_str!("../presets/digits.toml");

/// The directory of a run as training leaves it, with a line of the log every 10 steps.
fn run(folder: &Path, name: &str, config: &str, lines: u64) {
    let run = folder.join("all").join(name);
    fs::create_dir_all(run.join("samples")).unwrap();
    fs::write(run.join("config.toml"), config).unwrap();
    let log: String = (1..=lines).map(|i| line(10 * i, 2.0 / i as f64) + "\n").collect();
    fs::write(run.join("metrics.jsonl"), log).unwrap();
    for step in [100, 90] {
        let picture = image::RgbImage::from_pixel(step, 7, image::Rgb([9; 3]));
        picture.save(run.join(format!("samples/step-{step:08}.png"))).unwrap();
    }
    fs::write(run.join("samples/step-00000900.png"), "half a picture").unwrap();
}

fn line(step: u64, loss: f64) -> String {
    format!(
        r#"{{"schema":1,"step":{step},"skipped":0,"loss":{loss},"loss_ema":{loss},"gradient_norm":1.5,"learning_rate":0.001,
        "images_per_second":420.0,"step_ms":30.0,"coupling_ms":0.25,"coupling_share_percent":0.8,"distance_before":12.0,
        "distance_after":11.0,"distance_drop_percent":8.25,"coefficient":0.1,"energy":1.0,"alignment":6.5,"mean_shift":1.0}}"#
    )
    .replace('\n', "")
}

#[test]
fn a_report_shows_several_runs_on_a_page_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder, "plain", CONFIG, 30);
    let other = CONFIG.replace("steps = 400", "steps = 401").replace("\"window\"", "\"knn\"");
    run(folder, "<b>&amp;'\"", &other, 20);
    let log = folder.join("all/plain/metrics.jsonl");
    let lines = fs::read_to_string(&log).unwrap();
    // Bytes that are no text, a line that came again, and the half of one.
    let damaged =
        [lines.as_bytes(), b"\xff\xfe\n", line(10, 1.0).as_bytes(), b"\n{\"schema\":1,\"st"].concat();
    fs::write(&log, damaged).unwrap();
    let said = succeed(folder, &["report", "all/plain", "all/<b>&amp;'\"", "--out", "new/report.html"]);
    assert!(said.contains("50 lines") && said.contains("3 damaged"), "{said}");

    let page = fs::read_to_string(folder.join("new/report.html")).unwrap();
    assert!(!page.contains("<b>") && page.contains("&lt;b&gt;&amp;amp;&#39;&quot;"));
    for absent in ["<script", "http://", "https://", "@import", "url(", "NaN", "inf\""] {
        assert!(!page.contains(absent), "{absent}");
    }
    // Seven charts with a line for each run, and those behind the smoothed losses.
    assert_eq!(page.matches("role=\"img\"").count(), 7);
    for (look, name) in [("c0", "plain"), ("c1", "&lt;b&gt;&amp;amp;&#39;&quot;")] {
        let line = |line: &&str| line.starts_with(&format!("<path class=\"{look}\"")) && line.contains(name);
        assert_eq!(page.lines().filter(line).count(), 8, "{name}");
    }
    for tag in ["svg", "figure", "section", "table", "tr", "details", "title", "div", "ul"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    // The newest grid that is a picture.
    assert_eq!(page.matches("data:image/png;base64,iVBORw0KGgo").count(), 2);
    assert_eq!(page.matches("width=\"100\" height=\"7\"").count(), 2);
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    // What differs, and nothing else.
    let (_, differs) = page.split_once("<h2>What differs</h2>").unwrap();
    let (differs, configs) = differs.split_once("<h2>Configs</h2>").unwrap();
    assert_eq!(differs.matches("<th scope=\"row\">").count(), 2, "{differs}");
    for words in ["coupling.kind", "&quot;window&quot;", "&quot;knn&quot;", "train.steps", "400", "401"] {
        assert!(differs.contains(words), "{words}: {differs}");
    }
    assert!(configs.contains("learning_rate = 0.003"), "{configs}");
    assert!(page.contains("not comparable"));
    // The same again is the same page.
    succeed(folder, &["report", "all/plain", "all/<b>&amp;'\"", "--out", "again.html"]);
    assert_eq!(page, fs::read_to_string(folder.join("again.html")).unwrap());
}

#[test]
fn a_report_of_a_run_without_lines_or_pictures_is_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir_all(folder.join("all/new")).unwrap();
    fs::write(folder.join("all/new/config.toml"), CONFIG).unwrap();
    succeed(folder, &["report", "all/new"]);
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("no lines in metrics.jsonl yet") && !page.contains("<figure>"), "{page}");
}

#[test]
fn what_cannot_be_reported_or_animated_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder, "plain", CONFIG, 3);
    run(folder, "odd", "steps = ", 3);
    fs::create_dir(folder.join("folder.html")).unwrap();
    for (arguments, words) in [
        (&["report", "absent"][..], &["absent", "config.toml"][..]),
        (&["report", "all/odd"], &["all/odd/config.toml"]),
        (&["report", "all/plain", "all/../all/plain"], &["twice"]),
        (&["report", "all/plain", "--out", "report.png"], &["report.png", ".html"]),
        (&["report", "all/plain", "--out", "folder.html"], &["folder.html"]),
        (&["sample", "--checkpoint", "all/plain", "--gif", "way.png"], &["way.png", ".gif"]),
        (
            &["sample", "--checkpoint", "all/plain", "--gif", "way.gif", "--frames", "1"],
            &["--frames 1", "2 to"],
        ),
        (&["train", "--set", "log.tensorbord=true"], &["tensorbord", "did you mean `tensorboard`"]),
    ] {
        let message = refused(folder, arguments);
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message}");
        }
    }
    let output = immiscible(folder, &["sample", "--checkpoint", "all/plain", "--frames", "3"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("--gif"));
}

#[test]
fn a_run_writes_its_numbers_for_tensorboard_and_its_way_is_a_gif() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let small = "model.block_out_channels=[8,8] model.norm_num_groups=4 model.attention_head_dim=4 train.batch_size=16 \
                 train.log_every=2 sample.steps=3 sample.n=4";
    let train = |more: &[&str]| {
        let set = small.split(' ').flat_map(|assignment| ["--set", assignment.trim()]);
        let arguments: Vec<&str> = ["train"].into_iter().chain(set).chain(more.iter().copied()).collect();
        let output = immiscible(folder, &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let board = folder.join("runs/digits/tensorboard");
    let files = || fs::read_dir(&board).map_or(0, Iterator::count);
    let said = train(&["--set", "train.steps=2"]);
    for words in ["ETA 00:00:0", "img/s", "loss ", "gradient ", "window ", "drop "] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert_eq!(files(), 1);
    // Neither whether it is wanted nor whether it can be written matters to a run that goes on.
    train(&["--set", "train.steps=4", "--set", "log.tensorboard=false"]);
    assert_eq!(files(), 1);
    train(&["--set", "train.steps=6"]);
    assert_eq!(files(), 2);
    fs::remove_dir_all(&board).unwrap();
    fs::write(&board, "in the way").unwrap();
    let said = train(&["--set", "train.steps=8"]);
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    assert!(said.contains("tensorboard") && said.contains("training goes on"), "{said}");
    let log = fs::read_to_string(folder.join("runs/digits/metrics.jsonl")).unwrap();
    let records: Vec<Record> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.iter().map(|record| record.step).collect::<Vec<_>>(), [2, 4, 6, 8]);
    assert!(records.iter().all(|record| record.schema == 1 && record.loss_ema.is_some()));

    let gif = ["--n", "4", "--gif", "way.gif", "--frames", "9"];
    let said = succeed(folder, &[&["sample", "--checkpoint", "runs/digits"][..], &gif].concat());
    // Three steps, and the noise.
    assert!(said.contains("in 4 frames"), "{said}");
    let bytes = fs::read(folder.join("way.gif")).unwrap();
    assert!(bytes.starts_with(b"GIF89a") && bytes.ends_with(b";"));
    succeed(folder, &["report", "runs/digits"]);
}

#[test]
fn every_key_of_the_log_is_documented() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let docs = fs::read_to_string(docs).unwrap();
    let record: Record = serde_json::from_str(&line(1, 1.0)).unwrap();
    let value = serde_json::to_value(&record).unwrap();
    for key in value.as_object().unwrap().keys() {
        assert!(docs.contains(&format!("| `{key}` |")), "{key}");
    }
}
