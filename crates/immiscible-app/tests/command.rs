//! The command as a user runs it.

use immiscible_data::{Batch, DataOptions, build, npy};
use immiscible_metrics::NearestNeighbour;
use ndarray::{Array2, Array4, aview1};
use std::path::Path;
use std::process::Output;

mod common;

use common::{immiscible, refused, succeed, text};

const SMALL: &[&str] = &[
    "--set",
    "model.block_out_channels=[8,8]",
    "--set",
    "model.norm_num_groups=4",
    "--set",
    "model.attention_head_dim=4",
    "--set",
    "train.batch_size=16",
    "--set",
    "sample.steps=2",
    "--set",
    "sample.n=4",
];

fn train(folder: &Path, more: &[&str]) -> Output {
    immiscible(folder, &[&["train"], SMALL, more].concat())
}

#[test]
fn devices_are_listed_with_memory_and_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let listed = succeed(folder.path(), &["devices"]);
    let line = |kind: &str| {
        let line = listed.lines().find(|line| line.starts_with(kind));
        line.unwrap_or_else(|| panic!("no {kind} in {listed}"))
    };
    let cpu = line("flex ");
    assert!(cpu.contains("threads") && (!cfg!(target_os = "linux") || cpu.ends_with(" GB")), "{cpu}");
    for (kind, compiled_in) in [
        ("cuda", cfg!(feature = "cuda-untuned")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("wgpu", cfg!(feature = "wgpu-untuned")),
    ] {
        assert_eq!(line(kind).contains(&format!("build with --features {kind}")), !compiled_in, "{listed}");
    }
}

#[test]
fn steps_are_measured_for_every_coupling_and_batch() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // On a machine that does much else a step may take long.
    let small = ["bench-step", "--networks", "DiT-S/8", "--steps", "1", "--most-seconds", "1000"];
    let what = ["--couplings", "independent,knn", "--batches", "1,2", "--out", "step"];
    let parts = ["--micro-batch", "1", "--warm", "1"];
    let said = succeed(folder, &[&small[..], &what, &parts].concat());
    assert!(said.contains("the gradient of 1 at once") && said.contains("1 steps after 1"), "{said}");
    assert!(said.contains("| DiT-S/8 | f32 | immiscible | knn | 2 |"), "{said}");
    let report = std::fs::read_to_string(folder.join("step.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{report}");
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap();
        let images = number("batch") / number("step_ms") * 1e3;
        assert!((images / number("images_per_second") - 1.0).abs() < 1e-9 && images > 0.0, "{row}");
        assert_eq!(number("coupling_ms") > 0.0, row["coupling"] == "knn", "{row}");
        // Its weights alone take that much.
        assert!(!cfg!(target_os = "linux") || number("memory_bytes") > 1e8, "{row}");
    }
    assert_eq!(report["ends"], serde_json::json!([]));

    for (wrong, words) in [
        (["--networks", "DiT-S/9"], "DiT-S/9"),
        (["--couplings", "knm"], "did you mean `knn`?"),
        (["--precisions", "f32,f16"], "--precisions f16 is unknown; write f32"),
        (["--batches", "0"], "numbers > 0"),
        (["--micro-batch", "0"], "--micro-batch 0: write a number > 0"),
        (["--device", "flux"], "did you mean `flex`?"),
        (["--out", "none/step"], "its folder is not there"),
    ] {
        let message = refused(folder, &[&["bench-step"], &wrong[..]].concat());
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn what_a_user_gets_wrong_is_one_line_before_anything_happens() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let with = |setting: &str| refused(folder, &["train", "--set", setting]);
    for (message, words) in [
        (
            refused(folder, &["train", "--preset", "digit"]),
            &["unknown preset `digit`", "did you mean `digits`"][..],
        ),
        (with("optimizer.lerning_rate=1"), &["lerning_rate", "did you mean `learning_rate`"]),
        (with("optimizer.learning_rate=-1"), &["optimizer.learning_rate = -1", "> 0"]),
        (with("optimizer.learning_rate=fast"), &["learning_rate", "fast"]),
        (with("optimizer.kind=sgd"), &["optimizer.kind = sgd", "adamw"]),
        (with("optimizer.schedule=cosin"), &["optimizer.schedule = cosin", "cosine", "inverse_sqrt"]),
        (with("optimizer.final_share=0.1"), &["optimizer.schedule = constant", "optimizer.final_share"]),
        (with("optimizer.schedule=inverse_sqrt"), &["optimizer.decay_start = unset", "at least 1"]),
        (with("optimizer.momentum=0.9"), &["optimizer.kind = adamw", "optimizer.momentum"]),
        (with("ema.kind=power"), &["ema.sigma_rel = unset", "0.05"]),
        (with("ema.others.wide.kind=powr"), &["ema.kind = powr", "exponential, power"]),
        (with("train.micro_batch=129"), &["train.micro_batch = 129", "train.batch_size"]),
        (with("train.batch_size=9999"), &["9999", "1797"]),
        (with("model.norm_num_groups=7"), &["norm_num_groups", "7"]),
        (with("objective.name=epsilon"), &["objective.name, schedule.name", "epsilon", "flow"]),
        (with("schedule.name=cosin"), &["cosin", "cosine"]),
        (with("schedule.zero_terminal_snr=true"), &["flow", "zero_terminal_snr"]),
        (with("schedule.shift=-3"), &["shift = -3", "1 for none"]),
        (with("time.name=lognormal"), &["lognormal", "log_normal"]),
        (with("time.mean=0.5"), &["uniform", "mean"]),
        (with("loss.weighting.name=min_snr_5"), &["min_snr_5", "min_snr"]),
        (with("loss.distance.name=l1"), &["l1", "mse"]),
        (with("loss.vlb_weight=0.001"), &["flow", "loss.vlb_weight"]),
        (with("train.max_skipped=0"), &["train.max_skipped = 0", "10"]),
        (
            refused(folder, &[
                &["train", "--set", "schedule.name=linear", "--set", "schedule.zero_terminal_snr=true"][..],
                &["--set", "objective.name=epsilon", "--set", "sample.sampler=ddim"],
            ].concat()),
            &["objective.name, schedule.zero_terminal_snr", "epsilon", "linear", "alpha = 0"],
        ),
        (
            refused(folder, &["train", "--set", "schedule.name=linear", "--set", "time.name=logit_normal"]),
            &["time.name, schedule.name", "logit_normal", "linear"],
        ),
        (
            refused(folder, &[
                &["train", "--set", "objective.name=x0", "--set", "loss.weighting.name=sigma_sqrt"][..],
            ].concat()),
            &["loss.weighting.name, objective.name", "sigma_sqrt", "x0", "flow"],
        ),
        (
            refused(folder, &["train", "--set", "schedule.name=linear", "--set", "sample.sampler=dopri5"]),
            &["sample.sampler, schedule.name", "dopri5", "linear"],
        ),
        (with("coupling.window=4096"), &["coupling.window = 4096", "1797 images", "write at most 1792"]),
        (with("coupling={kind=\"window\", window=32768, cost=\"l2\"}"), &["coupling.window = 32768", "at most 16384"]),
        (with("coupling={kind=\"assignment\", scope=\"global\"}"), &["coupling.scope = global", "\"batch\""]),
        (with("coupling={kind=\"assignment\", scope=\"micro_batch\"}"), &["coupling.scope", "train.micro_batch"]),
        (with("coupling.scope=micro_batch"), &["coupling.scope has no meaning", "\"window\""]),
        (with("sample.steps=0"), &["0", "steps"]),
        (with("sample.guidance=2"), &["sample.guidance = 2", "num_class_embeds"]),
        (with("model.num_class_embeds=3"), &["num_class_embeds = 3", "11"]),
        (with("data.name=digitz"), &["digitz", "digits"]),
        (with("nonsense"), &["--set nonsense", "KEY=VALUE"]),
        (with("sample.steps=900000000000000000"), &["900000000000000000", "100000"]),
        (with("train.prefetch=900000000000000000"), &["train.prefetch", "1024"]),
        (with("model.block_out_channels=[4611686018427387904,8]"), &["block_out_channels"]),
        (with("sample.guidance=nan"), &["sample.guidance = NaN", "finite"]),
        (refused(folder, &["train", "--run", ".."]), &["--run", "plain name"]),
        (refused(folder, &["train", "--ui", "tui"]), &["--ui tui", "no terminal"]),
        (refused(folder, &["sample", "--checkpoint", "x", "--out", "grid.jpg"]), &["grid.jpg", ".png"]),
        (refused(folder, &["train", "--coupling", "knnn"]), &["knnn", "knn"]),
        (refused(folder, &["train", "--device", "cuda"]), &["cuda", "not compiled in", "--features"]),
        (refused(folder, &["train", "--device", "tpu"]), &["tpu", "flex"]),
        (refused(folder, &["train", "--device", "wgpu:x"]), &["wgpu:x", "whole number", "wgpu:0"]),
        (refused(folder, &["train", "--device", "flex:1"]), &["flex:1", "one CPU"]),
        (refused(folder, &["train", "--config", "absent.toml"]), &["absent.toml"]),
        (refused(folder, &["sample", "--checkpoint", "runs/absent"]), &["runs/absent", "config.toml"]),
    ] {
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message}");
        }
    }
}

#[test]
fn bad_data_is_one_line_before_anything_happens() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let idx = |images: &[u8]| {
        std::fs::create_dir_all(folder.join("idx")).unwrap();
        std::fs::write(folder.join("idx/train-images-idx3-ubyte.gz"), images).unwrap();
        std::fs::write(folder.join("idx/train-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 0]).unwrap();
        refused(folder, &["train", "--preset", "fashion-mnist", "--set", "data.path=idx"])
    };
    assert!(refused(folder, &["train", "--preset", "fashion-mnist"]).contains("path"));
    let absent = refused(folder, &["train", "--preset", "fashion-mnist", "--set", "data.path=absent"]);
    assert!(absent.contains("absent"), "{absent}");
    // A gzip header and the first bytes of a stream that never ends.
    assert!(idx(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xed]).contains("train-images-idx3-ubyte.gz"));
    // Not gzip at all, and too short for an IDX header.
    assert!(idx(b"PK\x03\x04").contains("train-images-idx3-ubyte.gz"));

    let array = |name: &str, settings: &str, more: &[&str]| {
        let data = format!("data={{name={name:?}, {settings}}}");
        refused(folder, &[&["train", "--set", &data], more].concat())
    };
    let mut images = Array4::<f32>::zeros((20, 1, 8, 8));
    npy::write(&folder.join("sound.npy"), images.view()).unwrap();
    let sound = "path=\"sound.npy\", range=[-1, 1]";
    let unlabelled =
        array("npy", sound, &["--set", "train.batch_size=4", "--set", "coupling.class_wise=true"]);
    assert!(unlabelled.contains("class_wise = true needs labels"), "{unlabelled}");
    // One that no batch of the first steps would have.
    images[[17, 0, 2, 3]] = f32::NAN;
    npy::write(&folder.join("images.npy"), images.view()).unwrap();
    let nan = array("npy", "path=\"images.npy\", range=[-1, 1]", &["--set", "train.batch_size=4"]);
    assert!(nan.contains("images.npy holds NaN at [17, 19]"), "{nan}");
    let header = r#"{"latents":{"dtype":"F32","shape":[20,1,8,8],"data_offsets":[0,5120]}}"#;
    let values = images.iter().flat_map(|value| value.to_le_bytes());
    let bytes = (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(values);
    std::fs::write(folder.join("l.safetensors"), bytes.collect::<Vec<u8>>()).unwrap();
    let nan = array("latents", "path=\"l.safetensors\"", &[]);
    assert!(nan.contains("l.safetensors holds NaN at [17, 19]"), "{nan}");

    write_npy(&folder.join("none.npy"), "|b1", "(1, 8, 8)", [0; 64]);
    write_npy(&folder.join("small.npy"), "|b1", "(1, 4, 4)", [1; 16]);
    write_npy(&folder.join("two.npy"), "|b1", "(1, 2, 2)", [1, 0, 2, 1]);
    for (mask, words) in [
        ("none.npy", ["mask 0 counts no value", "coupling.mask"]),
        ("small.npy", ["[1, 4, 4]", "[1, 8, 8], or 1797 of them"]),
        ("two.npy", ["two.npy holds 2 at [0, 1, 0]", "no truth value"]),
        ("sound.npy", ["sound.npy holds values of the type \"<f4\"", "bool"]),
        ("absent.npy", ["absent.npy", "cannot read"]),
    ] {
        let said = refused(folder, &["train", "--set", &format!("coupling.mask={mask}")]);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }

    let priced = ["--coupling", "priced_knn", "--set", "coupling.state=prices", "--dry-run"];
    succeed(folder, &[&["train"][..], &priced].concat());
    let other = array("npy", sound, &[&["--set", "train.batch_size=4"][..], &priced].concat());
    assert!(other.contains("prices was fitted to another data set"), "{other}");

    std::fs::create_dir_all(folder.join("text")).unwrap();
    std::fs::write(folder.join("text/a.png"), "not a picture").unwrap();
    let text = refused(folder, &["train", "--preset", "folder", "--set", "data.path=text"]);
    assert!(text.contains("a.png"), "{text}");

    std::fs::create_dir_all(folder.join("pictures")).unwrap();
    for (name, side) in [("a.png", 16), ("b.png", 24)] {
        image::RgbImage::new(side, side).save(folder.join("pictures").join(name)).unwrap();
    }
    // The preset brings every image to one size; without a size they differ.
    let config = include_str!("../presets/folder.toml").replace("image_size = 32\n", "");
    std::fs::write(folder.join("folder.toml"), config).unwrap();
    let message = refused(folder, &["train", "--config", "folder.toml", "--set", "data.path=pictures"]);
    assert!(message.contains("b.png") && message.contains("24") && message.contains("16"), "{message}");
}

#[test]
fn times_weights_and_a_learned_variance_are_trained_and_sampled() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let settings = [
        "train.steps=2",
        "schedule.name=cosine",
        "schedule.zero_terminal_snr=true",
        "objective.name=v",
        "sample.sampler=ddpm",
        "sample.variance=learned_range",
        "sample.spacing=linspace",
        "time.name=stratified",
        "loss.vlb_weight=0.001",
        "loss.weighting.name=min_snr",
        "loss.distance.name=huber",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let trained = train(folder, &settings);
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    let config = std::fs::read_to_string(folder.join("runs/digits/config.toml")).unwrap();
    for line in ["out_channels = 2", "vlb_weight = 0.001", "name = \"stratified\""] {
        assert!(config.contains(line), "no {line:?} in {config}");
    }
    let exported = succeed(folder, &["export", "runs/digits", "--to", "folder"]);
    assert!(exported.contains("DDPMPipeline"), "{exported}");
    let draw = |of: [&str; 2]| {
        succeed(folder, &["sample", of[0], of[1], "--n", "2", "--steps", "4", "--out", "s.npy"]);
        npy::read::<f32>(&folder.join("s.npy")).unwrap().values
    };
    let (run, model) = (draw(["--checkpoint", "runs/digits"]), draw(["--model", "folder"]));
    assert!(run.iter().zip(&model).all(|(a, b)| (a - b).abs() < 1e-4), "{run:?} {model:?}");
}

#[test]
fn a_run_keeps_its_config_goes_on_and_can_be_sampled() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let first = train(folder, &["--set", "train.steps=3"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let report = text(&first.stdout);
    for word in [
        "samples   runs/digits/samples/step-00000003.png",
        "mean distance drop",
        "% of it",
        "sliced W2",
        "floor",
    ] {
        assert!(report.contains(word), "no {word:?} in {report}");
    }
    let run = folder.join("runs/digits");
    for file in ["config.toml", "data.toml", "metrics.jsonl", "checkpoints/step-00000003/manifest.json"] {
        assert!(run.join(file).exists(), "{file}");
    }
    let line = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let record: serde_json::Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert!(record["distance_drop_percent"].as_f64().unwrap() > 1.0, "{record}");

    // The saved config alone repeats and continues the run.
    let again =
        immiscible(folder, &["train", "--config", "runs/digits/config.toml", "--set", "train.steps=5"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("going on from step 3"), "{}", text(&again.stderr));
    assert!(run.join("samples/step-00000005.png").exists());

    let changed = train(folder, &["--set", "coupling.kind=knn", "--set", "seed=7"]);
    let message = text(&changed.stderr);
    assert_eq!(changed.status.code(), Some(2), "{message}");
    for word in ["coupling.kind: \"window\" -> \"knn\"; ", "seed: 0 -> 7; ", "--run", "--fresh"] {
        assert!(message.contains(word), "no {word:?} in {message}");
    }

    let fresh = train(folder, &["--set", "coupling.kind=knn", "--set", "train.steps=2", "--fresh"]);
    assert!(fresh.status.success(), "{}", text(&fresh.stderr));
    let fewer = train(folder, &["--set", "coupling.kind=knn", "--set", "train.steps=1"]);
    assert_eq!(fewer.status.code(), Some(2), "{}", text(&fewer.stderr));

    let sample = |out: &str, more: &[&str]| {
        let arguments = ["sample", "--checkpoint", "runs/digits", "--n", "3", "--seed", "4", "--out", out];
        succeed(folder, &[&arguments[..], more].concat());
        std::fs::read(folder.join(out)).unwrap()
    };
    let grid = sample("a.png", &[]);
    assert_eq!(grid, sample("b.png", &[]));
    assert_ne!(grid, sample("c.png", &["--steps", "1", "--sampler", "euler"]));
    let refused = immiscible(folder, &["sample", "--checkpoint", "runs/digits", "--class", "3"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("takes no classes"));
}

#[test]
fn a_run_becomes_a_folder_that_samples_alike_and_starts_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let diffusion = [
        "--set",
        "schedule.name=linear",
        "--set",
        "objective.name=epsilon",
        "--set",
        "sample.sampler=ddim",
        // diffusers leaves the noise as it was predicted where it clamps x0, and a run does not.
        "--set",
        "sample.clip=false",
    ];
    let trained = train(folder, &[&["--set", "train.steps=2"], &diffusion[..]].concat());
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    let said = succeed(folder, &["export", "runs/digits", "--to", "model"]);
    assert!(said.contains("DDIMPipeline") && said.contains("step 2"), "{said}");
    for file in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"] {
        assert!(folder.join("model").join(file).exists(), "{file}");
    }

    let noise = Array4::from_shape_fn((3, 1, 8, 8), |(n, _, y, x)| ((n * 64 + y * 8 + x) as f32 * 0.7).sin());
    npy::write(&folder.join("x_T.npy"), noise.view()).unwrap();
    let drawn = |from: &[&str], out: &str| {
        let more = ["--noise", "x_T.npy", "--steps", "4", "--out", out];
        succeed(folder, &[&["sample"], from, &more].concat());
        let file = npy::read::<f32>(&folder.join(out)).unwrap();
        assert_eq!(file.shape, [3, 1, 8, 8]);
        file.values
    };
    let from_run = drawn(&["--checkpoint", "runs/digits"], "a.npy");
    let from_folder = drawn(&["--model", "model"], "b.npy");
    assert_eq!(from_run, from_folder);
    assert_ne!(from_folder, drawn(&["--model", "model", "--sampler", "heun"], "c.npy"));

    // A folder goes out as it came in.
    let again = succeed(folder, &["export", "model", "--to", "model-again"]);
    assert!(again.contains("DDIMPipeline") && again.contains("weights of model"), "{again}");
    assert_eq!(from_folder, drawn(&["--model", "model-again"], "e.npy"));

    // A run that starts from it and learns next to nothing draws next to the same.
    let started = immiscible(
        folder,
        &[
            &["train", "--init", "model", "--run", "second", "--set", "train.steps=1", "--set", "sample.n=1"]
                [..],
            &["--set", "train.batch_size=16", "--set", "optimizer.learning_rate=1e-9"],
            &diffusion[..],
        ]
        .concat(),
    );
    assert!(started.status.success(), "{}", text(&started.stderr));
    let second = drawn(&["--checkpoint", "runs/second"], "d.npy");
    let apart = second.iter().zip(&from_run).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let size = from_run.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
    assert!(apart < 1e-3 * size, "{apart} of {size}");
    std::fs::remove_dir_all(folder.join("runs/second")).unwrap();

    // What is wrong with a folder is one line.
    let runs = folder.join("runs");
    let bad = |arguments: &[&str], words: &[&str]| {
        let output = immiscible(folder, arguments);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
        assert!(words.iter().all(|word| message.contains(word)), "{arguments:?}: {message}");
    };
    bad(&["export", "runs/digits", "--to", "model"], &["model", "not empty"]);
    bad(&["export", "runs", "--to", "other"], &["config.toml"]);
    bad(&["export", "model", "--to", "other", "--last"], &["--last", "no run"]);
    assert!(!folder.join("other").exists());
    bad(&["sample", "--model", "runs"], &["runs", "model_index.json"]);
    bad(&["sample", "--model", "model", "--labels", "x_T.npy"], &["x_T.npy"]);
    bad(&["sample", "--model", "model", "--n", "2", "--noise", "x_T.npy"], &["3 rows", "2 samples"]);
    bad(&["sample", "--model", "model", "--steps", "1001"], &["1001", "1000"]);
    bad(&["sample", "--model", "model", "--out", "a.jpg"], &["a.jpg", ".npy"]);
    bad(&["sample", "--model", "model", "--prompt", "a cat"], &["a cat", "no text encoder"]);
    bad(&["sample", "--model", "model", "--null-class", "1"], &["--null-class 1", "no classes"]);
    let empty = Array4::from_elem((1, 1, 8, 8), f32::NAN);
    npy::write(&folder.join("nan.npy"), empty.view()).unwrap();
    bad(&["sample", "--model", "model", "--noise", "nan.npy"], &["nan.npy", "finite"]);
    bad(&["export", "runs/digits", "--to", "latent", "--vae", "runs"], &["--vae runs", "config.json"]);
    assert!(!folder.join("latent").exists());
    bad(&["train", "--init", "runs", "--run", "third"], &["--init runs"]);
    bad(
        &["train", "--init", "model", "--run", "third", "--set", "model.size=DiT-S/8"],
        &["model.size", "--init"],
    );
    bad(&["train", "--run", "third", "--set", "model.size=DiT-S/3"], &["DiT-S/3", "DiT-S/4"]);
    assert!(!runs.join("third").exists());
    let weights = folder.join("model/unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    for (content, word) in [
        (&bytes[..bytes.len() / 2], "read the weights"),
        (&bytes[..5], "read the weights"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "read the weights"),
        (b"", "read the weights"),
    ] {
        std::fs::write(&weights, content).unwrap();
        bad(&["sample", "--model", "model"], &[word, "diffusion_pytorch_model.safetensors"]);
    }
    std::fs::remove_file(&weights).unwrap();
    bad(&["sample", "--model", "model"], &["it has none of", ".bin"]);
    std::fs::write(folder.join("model/unet/diffusion_pytorch_model.bin"), "no pickle").unwrap();
    bad(&["sample", "--model", "model"], &["read the weights", ".bin"]);
    std::fs::write(&weights, &bytes).unwrap();
    let config = folder.join("model/unet/config.json");
    let settings = std::fs::read_to_string(&config).unwrap();
    for (from, to, words) in [
        ("\"layers_per_block\": 1", "\"layers_per_block\": 2", ["missing", "resnets.1"]),
        ("_channels\": 1", "_channels\": 3", ["of another shape", "conv_in"]),
        ("\"act_fn\": \"silu\"", "\"act_fn\": \"snake\"", ["act_fn", "snake"]),
        ("\"in_channels\"", "\"im_channels\"", ["im_channels", "unknown field"]),
    ] {
        assert!(settings.contains(from), "{settings}");
        std::fs::write(&config, settings.replace(from, to)).unwrap();
        bad(&["sample", "--model", "model"], &words);
    }
    std::fs::remove_file(&config).unwrap();
    bad(&["sample", "--model", "model"], &["config.json"]);
}

#[test]
fn a_conditional_run_draws_the_class_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let quickly =
        ["--set", "train.steps=30", "--set", "optimizer.learning_rate=1e-2", "--set", "ema.decay=0"];
    let trained = train(folder, &[&["--preset", "digits-classes", "--run", "c"][..], &quickly].concat());
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    let draw = |class: &str| {
        let arguments = ["sample", "--checkpoint", "runs/c", "--n", "2", "--guidance", "4", "--class", class];
        immiscible(folder, &arguments)
    };
    let picture = |class: &str| {
        assert!(draw(class).status.success());
        std::fs::read(folder.join("samples.png")).unwrap()
    };
    assert_eq!(picture("9"), picture("9"));
    assert_ne!(picture("9"), picture("0"));
    let refused = draw("10");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("0 to 9"));
}

#[test]
fn the_list_names_every_part() {
    let list = succeed(Path::new("."), &["list"]);
    for name in [
        "digits-classes",
        "fashion-mnist",
        "folder",
        "lapjv",
        "knn",
        "heun",
        "flow_velocity",
        "scaled_linear",
        "dit",
        "adamw",
    ] {
        assert!(list.contains(name), "no {name} in {list}");
    }
}

#[test]
fn a_dry_run_tells_what_a_run_takes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let dry = |settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let arguments: Vec<&str> =
            ["train", "--dry-run", "--set", "train.steps=100"].into_iter().chain(settings).collect();
        succeed(folder, &arguments)
    };
    let line = |said: &str, name: &str| -> f64 {
        let line = said.lines().find(|line| line.ends_with(&format!("MB  {name}")));
        let line = line.unwrap_or_else(|| panic!("no {name} in {said}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let said = dry(&[]);
    for words in ["digits (built in): 1797 of 1×8×8, 10 classes", "an epoch is 14 steps, the run 7.14 epochs"]
    {
        assert!(said.contains(words), "no {words} in {said}");
    }
    assert!((line(&said, "adamw") / line(&said, "weights") - 2.0).abs() < 0.1, "{said}");
    let lion = dry(&[
        "optimizer.kind=lion",
        "ema.others.wide.decay=0.9",
        "train.micro_batch=32",
        "coupling.kind=assignment",
    ]);
    let scope =
        "parts     the gradient of 32 images at once; the noise is chosen for the whole batch of 128\n";
    assert!(lion.contains(scope) && !said.contains("parts  "), "{lion}");
    assert_eq!(line(&lion, "lion"), line(&lion, "average wide"));
    let (whole, part) = (line(&said, "activations of 128 images"), line(&lion, "activations of 32 images"));
    assert!((whole / part / 4.0 - 1.0).abs() < 0.05, "{said} {lion}");
    let window = dry(&["coupling.kind=window", "coupling.window=1024", "train.gradient_checkpointing=true"]);
    assert!(line(&window, "coupling of 1024 images") > 1.0, "{window}");
    assert!(line(&window, "activations of 128 images") < 0.7 * whole, "{window}");
    assert!(!folder.join("runs").exists());
}

/// Its learning rate falls until the end, which therefore is not to be moved in silence.
#[test]
fn a_run_with_a_falling_rate_and_two_averages_goes_on_and_can_be_prolonged() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let settings = [
        "optimizer.schedule=cosine",
        "optimizer.warmup_steps=0",
        "optimizer.kind=muon",
        "ema.others.wide.kind=power",
        "ema.others.wide.sigma_rel=0.2",
        "checkpoint.every=2",
        "train.log_every=1",
    ];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let settings = [&["train"], SMALL, &settings].concat();
    succeed(folder, &[&settings[..], &["--set", "train.steps=4"]].concat());
    let refused = |arguments: &[&str]| {
        let output = immiscible(folder, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        text(&output.stderr)
    };
    let message = refused(&[&settings[..], &["--set", "train.steps=6"]].concat());
    for word in ["optimizer.schedule_steps: 4 -> 6", "--set optimizer.schedule_steps=4 to prolong it"] {
        assert!(message.contains(word), "{message}");
    }
    let prolonged = ["--set", "train.steps=6", "--set", "optimizer.schedule_steps=4"];
    succeed(folder, &[&settings[..], &prolonged, &["--set", "train.gradient_checkpointing=true"]].concat());
    let log = std::fs::read_to_string(folder.join("runs/digits/metrics.jsonl")).unwrap();
    let rates = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["learning_rate"].clone());
    let rates: Vec<f64> = rates.map(|rate| rate.as_f64().unwrap()).collect();
    assert_eq!((rates.len(), rates[0], &rates[4..]), (6, 3e-3, &[0.0, 0.0][..]), "{rates:?}");

    let draw = |more: &[&str]| {
        let draw = ["sample", "--checkpoint", "runs/digits", "--n", "2", "--out", "x.npy"];
        succeed(folder, &[&draw[..], more].concat());
        std::fs::read(folder.join("x.npy")).unwrap()
    };
    assert_ne!(draw(&[]), draw(&["--ema", "wide"]));
    let unknown = refused(&["sample", "--checkpoint", "runs/digits", "--ema", "wid"]);
    assert!(unknown.contains("--ema wid") && unknown.contains("did you mean `wide`"), "{unknown}");
    for (ema, to) in [(&[][..], "average"), (&["--ema", "wide"], "wide")] {
        succeed(folder, &[&["export", "runs/digits", "--to", to][..], ema].concat());
    }
    let weights =
        |to: &str| std::fs::read(folder.join(to).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_ne!(weights("average"), weights("wide"));
}

/// Six images of 1×2×2 pixels in `x.npy`, and in `n.npy` the same pictures as noises, the other way round.
fn write_images_and_noises(folder: &Path) {
    let images = Array4::from_shape_fn((6, 1, 2, 2), |(i, _, y, x)| ((7 * i + 3 * y + x) as f32).sin());
    let reversed = Array4::from_shape_fn((6, 1, 2, 2), |(i, c, y, x)| images[[5 - i, c, y, x]]);
    npy::write(&folder.join("x.npy"), images.view()).unwrap();
    npy::write(&folder.join("n.npy"), reversed.view()).unwrap();
}

/// A file of numbers of any type; the library writes float32 only.
fn write_npy(path: &Path, descr: &str, shape: &str, values: impl IntoIterator<Item = u8>) {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(values);
    std::fs::write(path, bytes).unwrap();
}

/// A square matrix of float64.
fn write_doubles(path: &Path, n: usize, values: &[f64]) {
    write_npy(path, "<f8", &format!("({n}, {n})"), values.iter().flat_map(|value| value.to_le_bytes()));
}

fn json(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let printed = succeed(folder, &[&["assign", "--json"], arguments].concat());
    assert_eq!(printed.lines().count(), 1, "{printed}");
    serde_json::from_str(&printed).unwrap()
}

#[test]
fn assign_finds_the_noises_and_tells_what_that_brings() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_images_and_noises(folder);
    let facts = json(folder, &["x.npy", "n.npy", "--cost", "l2", "--out", "new/perm.npy"]);
    assert_eq!(npy::read_labels(&folder.join("new/perm.npy")).unwrap(), [5, 4, 3, 2, 1, 0]);
    for (key, value) in [("images", 6), ("noises", 6), ("dimension", 4)] {
        assert_eq!(facts[key], value, "{facts}");
    }
    assert_eq!(
        (facts["cost"].as_str(), facts["distance_after"].as_f64()),
        (Some("l2"), Some(0.0)),
        "{facts}"
    );
    assert_eq!(facts["distance_drop_percent"], 100.0, "{facts}");
    let before = facts["distance_before"].as_f64().unwrap();
    assert!((facts["cost_before"].as_f64().unwrap() - 6.0 * before).abs() < 1e-5, "{facts}");
    for key in ["cost_ms", "solve_ms", "threads"] {
        assert!(facts[key].as_f64().unwrap() > 0.0, "{facts}");
    }
    assert_eq!(facts["solver"], "exact", "{facts}");
    assert!(facts["gap_percent"].as_f64().unwrap() < 1e-4, "{facts}");
    assert!(facts["lower_bound"].as_f64().unwrap().abs() < 1e-2, "{facts}");
    let rounded = json(folder, &["x.npy", "n.npy", "--precision", "int8"]);
    assert_eq!(
        (rounded["precision"].as_str(), rounded["distance_after"].as_f64()),
        (Some("int8"), Some(0.0))
    );

    let table = succeed(folder, &["assign", "x.npy", "n.npy"]);
    for words in [
        "6 images, 6 noises, 4 values each",
        "0.0000 after: 100.00 % less",
        "% of the gain",
        "ms cost",
        "ms solve",
    ] {
        assert!(table.contains(words), "no {words:?} in {table}");
    }

    // A pool whose first six noises are another picture's, and the last six the pictures themselves.
    let images = npy::read::<f32>(&folder.join("x.npy")).unwrap().values;
    let pool = Array2::from_shape_vec((12, 4), [&images[4..], &images[..4], &images].concat()).unwrap();
    npy::write(&folder.join("pool.npy"), pool.view()).unwrap();
    let facts = json(folder, &["x.npy", "pool.npy", "--cost", "squared_l2"]);
    assert_eq!(
        (facts["noises"].as_u64(), facts["distance_after"].as_f64()),
        (Some(12), Some(0.0)),
        "{facts}"
    );
    assert!(facts["distance_before"].as_f64().unwrap() > 0.1, "{facts}");

    // Images 0 and 5 share a label, as do 1 and 2, and 3 and 4.
    npy::write(&folder.join("l.npy"), aview1(&[7_i64, 1, 1, 0, 0, 7])).unwrap();
    let facts = json(folder, &["x.npy", "n.npy", "--labels", "l.npy", "--out", "perm.npy"]);
    assert_eq!(facts["groups"], 3, "{facts}");
    let perm = npy::read_labels(&folder.join("perm.npy")).unwrap();
    assert_eq!((perm[0], perm[5]), (5, 0));
    assert!([1, 2].contains(&perm[1]) && [3, 4].contains(&perm[4]), "{perm:?}");
}

#[test]
fn assign_takes_costs_and_noises_of_each_image() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_images_and_noises(folder);
    let costs = Array2::from_shape_fn((3, 3), |(i, j)| if (i + 1) % 3 == j { 1.0_f32 } else { 4.0 });
    npy::write(&folder.join("c.npy"), costs.view()).unwrap();
    let facts = json(folder, &["--cost-matrix", "c.npy", "--out", "perm.npy"]);
    assert_eq!(npy::read_labels(&folder.join("perm.npy")).unwrap(), [1, 2, 0]);
    assert_eq!(
        (facts["cost_before"].as_f64(), facts["cost_after"].as_f64()),
        (Some(12.0), Some(3.0)),
        "{facts}"
    );
    assert!(facts["cost_ms"].is_null() && facts["distance_before"].is_null(), "{facts}");

    // In single precision all four are the same.
    write_doubles(&folder.join("fine.npy"), 2, &[1e8 + 1.0, 1e8, 1e8, 1e8 + 1.0]);
    let facts = json(folder, &["--cost-matrix", "fine.npy", "--out", "perm.npy"]);
    assert_eq!(npy::read_labels(&folder.join("perm.npy")).unwrap(), [1, 0]);
    assert_eq!(facts["precision"], "float64", "{facts}");
    assert!(facts["gap_percent"].as_f64().unwrap() < 1e-4, "{facts}");

    // Two noises for each of three images, as rows or with an axis of their own: the second is the image itself.
    let images = npy::read::<f32>(&folder.join("x.npy")).unwrap().values;
    let three = Array2::from_shape_vec((3, 4), images[..12].to_vec()).unwrap();
    npy::write(&folder.join("x3.npy"), three.view()).unwrap();
    let own = Array2::from_shape_fn((6, 4), |(row, d)| if row % 2 == 1 { three[(row / 2, d)] } else { 9.0 });
    npy::write(&folder.join("rows.npy"), own.view()).unwrap();
    npy::write(&folder.join("axis.npy"), own.into_shape_with_order((3, 2, 4)).unwrap().view()).unwrap();
    for noise in ["rows.npy", "axis.npy"] {
        let of_knn = ["x3.npy", noise, "--solver", "knn", "--cost", "squared_l2", "--out", "perm.npy"];
        let facts = json(folder, &of_knn);
        assert_eq!(npy::read_labels(&folder.join("perm.npy")).unwrap(), [1, 1, 1]);
        assert_eq!(
            (facts["noises"].as_u64(), facts["distance_after"].as_f64()),
            (Some(2), Some(0.0)),
            "{facts}"
        );
    }
    // A matrix of candidates may be narrow.
    npy::write(&folder.join("narrow.npy"), Array2::<f32>::eye(3).select(ndarray::Axis(1), &[0, 1]).view())
        .unwrap();
    assert_eq!(json(folder, &["--cost-matrix", "narrow.npy", "--solver", "knn"])["cost_after"], 0.0);
}

#[test]
fn what_assign_cannot_use_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_images_and_noises(folder);
    let matrix = |name: &str, shape: (usize, usize), bad: f32| {
        let mut values = Array2::zeros(shape);
        values.iter_mut().nth(4).into_iter().for_each(|value| *value = bad);
        npy::write(&folder.join(name), values.view()).unwrap();
    };
    for (name, shape, bad) in [
        ("nan.npy", (6, 4), f32::NAN),
        ("inf.npy", (6, 4), f32::NEG_INFINITY),
        ("few.npy", (5, 4), 0.0),
        ("wide.npy", (6, 3), 0.0),
        ("empty.npy", (0, 4), 0.0),
        ("no-values.npy", (6, 0), 0.0),
        ("tall.npy", (4, 3), 0.0),
        ("large.npy", (6, 4), 2e38),
    ] {
        matrix(name, shape, bad);
    }
    npy::write(&folder.join("vector.npy"), aview1(&[0_i64; 6])).unwrap();
    npy::write(&folder.join("three.npy"), aview1(&[0_i64; 3])).unwrap();
    npy::write(&folder.join("negative.npy"), aview1(&[0_i64, 1, 2, 3, 4, -5])).unwrap();
    write_doubles(&folder.join("double.npy"), 2, &[1.0, 2.0, 1e300, 4.0]);
    std::fs::write(folder.join("text.npy"), "images and noises").unwrap();
    let whole = std::fs::read(folder.join("x.npy")).unwrap();
    std::fs::write(folder.join("cut.npy"), &whole[..whole.len() - 1]).unwrap();

    for (arguments, words) in [
        (&["nan.npy", "n.npy"][..], &["nan.npy holds NaN at row 1, column 0"][..]),
        (&["x.npy", "inf.npy"], &["inf.npy holds -inf at row 1, column 0"]),
        (&["--cost-matrix", "nan.npy"], &["nan.npy holds NaN at row 1, column 0"]),
        (&["large.npy", "large.npy"], &["large.npy with large.npy", "cost holds -inf at row 1, column 1"]),
        (&["x.npy", "wide.npy"], &["wide.npy has 3 values", "x.npy has 4"]),
        (&["x.npy", "few.npy"], &["few.npy holds 5 noises for the 6 images"]),
        (&["empty.npy", "n.npy"], &["empty.npy is empty", "[0, 4]"]),
        (&["x.npy", "empty.npy"], &["empty.npy is empty"]),
        (&["no-values.npy", "no-values.npy"], &["no-values.npy is empty", "[6, 0]"]),
        (&["--cost-matrix", "empty.npy"], &["empty.npy is empty"]),
        (&["--cost-matrix", "tall.npy"], &["tall.npy has 4 rows but 3 columns"]),
        (
            &["--cost-matrix", "double.npy", "--solver", "lapjv"],
            &["holds 1e300 at row 1, column 0", "float32", "lapjv"],
        ),
        (&["double.npy", "n.npy"], &["double.npy holds 1e300 at [1, 0]", "float32"]),
        (&["--cost-matrix", "x.npy"], &["x.npy has the shape [6, 1, 2, 2]", "a matrix"]),
        (&["--cost-matrix", "wide.npy", "--solver", "lapjv"], &["wide.npy has 6 rows but 3 columns"]),
        (&["x.npy", "wide.npy", "--solver", "knn"], &["[6, 3]", "--solver knn needs [6, k, …]", "4 values"]),
        (&["vector.npy", "n.npy"], &["vector.npy holds values of the type \"<i8\"", "float32"]),
        (&["text.npy", "n.npy"], &["text.npy is no npy file"]),
        (&["cut.npy", "n.npy"], &["cut.npy ends after 95 of the 96 bytes"]),
        (&["absent.npy", "n.npy"], &["cannot read absent.npy"]),
        (&["x.npy", "absent.npy"], &["cannot read absent.npy"]),
        (&[".", "n.npy"], &["cannot read ."]),
        (&["x.npy"], &["DATA.npy and NOISE.npy", "--cost-matrix"]),
        (&["x.npy", "n.npy", "--solver", "lapjw"], &["--solver lapjw", "did you mean `lapjv`?", "greedy"]),
        (&["x.npy", "n.npy", "--cost", "dott"], &["--cost dott", "did you mean `dot`?", "l2"]),
        (&["x.npy", "n.npy", "--precision", "int9"], &["--precision int9", "did you mean `int8`?"]),
        (&["x.npy", "n.npy", "--labels", "three.npy"], &["three.npy holds 3 labels for 6 images"]),
        (&["x.npy", "n.npy", "--labels", "x.npy"], &["x.npy has the shape [6, 1, 2, 2]", "a vector"]),
        (&["x.npy", "n.npy", "--labels", "negative.npy"], &["negative.npy holds -5 at [5]"]),
        (&["x.npy", "n.npy", "--labels", "absent.npy"], &["cannot read absent.npy"]),
        (&["x.npy", "n.npy", "--out", "perm.txt"], &["--out perm.txt", ".npy"]),
    ] {
        let message = refused(folder, &[&["assign"], arguments].concat());
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message}");
        }
    }
}

/// The default preset, trained for a fraction of its steps, already draws digits that a classifier of real ones knows.
#[test]
fn the_default_preset_learns_the_digits() {
    const SAMPLES: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeed(folder, &["train", "--set", "train.steps=250", "--set", "sample.n=4"]);
    succeed(folder, &["sample", "--checkpoint", "runs/digits", "--n", "100", "--out", "drawn"]);
    let mut drawn = Array2::zeros((SAMPLES, 64));
    for (i, mut row) in drawn.rows_mut().into_iter().enumerate() {
        let picture = image::open(folder.join(format!("drawn/{i:06}.png"))).unwrap().to_luma8();
        row.iter_mut().zip(picture.pixels()).for_each(|(x, pixel)| *x = f32::from(pixel.0[0]) / 127.5 - 1.0);
    }

    let digits = build(&DataOptions::new("digits")).unwrap();
    let real = Batch::read(&*digits, (0..digits.len() as u64).collect()).unwrap();
    let labels = real.labels.clone().unwrap();
    let real = real.images.values();
    let real = real.to_shape((digits.len(), 64)).unwrap();
    let classifier = NearestNeighbour::fit(real.view(), &labels).unwrap();
    let nearest = classifier.nearest(drawn.view()).unwrap();
    let mut found = [0; 10];
    nearest.iter().for_each(|nearest| found[nearest.label as usize] += 1);
    assert!(found.iter().filter(|count| **count >= 3).count() >= 8, "{found:?}");
    // Real digits are 2.1 from their nearest other one on average, normal noise clamped to [−1, 1] is 7.7 from any.
    let mean = nearest.iter().map(|nearest| nearest.distance).sum::<f64>() / SAMPLES as f64;
    assert!(mean < 3.5, "mean distance to the nearest real digit {mean}");
}

#[test]
fn a_run_warns_of_settings_that_are_known_to_hurt() {
    let folder = tempfile::tempdir().unwrap();
    let warned = |run: &str, more: &[&str]| {
        let output = train(folder.path(), &[&["--run", run, "--set", "train.steps=1"], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
            .lines()
            .filter(|line| line.starts_with("warning: "))
            .map(String::from)
            .collect::<Vec<_>>()
    };
    assert_eq!(warned("plain", &[]), [""; 0]);
    let knn = warned("knn", &["--coupling", "knn"]);
    assert!(knn.len() == 1 && knn[0].contains("64 values") && knn[0].contains("priced_knn"), "{knn:?}");
    // 2 · 1.03 / √128
    assert!(knn[0].contains("18 % of the noise's energy"), "{knn:?}");
    assert_eq!(warned("one", &["--coupling", "knn", "--set", "coupling.k=1"]), [""; 0]);
    let few = warned("few", &["--coupling", "assignment", "--set", "train.batch_size=8"]);
    assert!(
        few.len() == 1 && few[0].contains("train.batch_size = 8") && few[0].contains("window"),
        "{few:?}"
    );
    let classes = warned("classes", &["--set", "model.num_class_embeds=10"]);
    assert!(classes.len() == 1 && classes[0].contains("set coupling.class_wise = true"), "{classes:?}");
    let nearest = warned("knn-classes", &["--coupling", "knn", "--set", "model.num_class_embeds=10"]);
    assert!(
        nearest.len() == 2 && nearest[0].contains("\"priced_knn\" with coupling.class_wise"),
        "{nearest:?}"
    );

    // Class 2 has one image of 200.
    let images = Array4::from_shape_fn((200, 1, 8, 8), |(i, _, y, x)| ((7 * i + 3 * y + x) as f32).sin());
    npy::write(&folder.path().join("images.npy"), images.view()).unwrap();
    let labels = (0..200).map(|i| if i == 7 { 2 } else { i % 2 });
    write_npy(&folder.path().join("labels.npy"), "|u1", "(200,)", labels);
    let data = ["data.name=npy", "data.path=images.npy", "data.label_file=labels.npy", "data.range=[-1, 1]"];
    let data: Vec<&str> = data.iter().flat_map(|setting| ["--set", setting]).collect();
    let alone = warned("alone", &[&data, &["--set", "coupling.class_wise=true"][..]].concat());
    assert!(alone.len() == 1 && alone[0].contains("class \"2\" has a single image"), "{alone:?}");
}

/// Where only the upper half of the digits counts, their noise comes nearer in that half, and less near on the whole.
#[test]
fn a_mask_says_what_counts_when_noise_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_npy(&folder.join("upper.npy"), "|b1", "(1, 8, 8)", (0..64).map(|i| u8::from(i < 32)));
    for kind in ["assignment", "window", "knn", "priced_knn"] {
        let drop = |run: &str, more: &[&str]| {
            let run = format!("{kind}-{run}");
            let batch = "train.batch_size=128";
            let settings = ["--coupling", kind, "--run", &run, "--set", "train.steps=1", "--set", batch];
            let output = train(folder, &[&settings, more].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            let log = std::fs::read_to_string(folder.join("runs").join(&run).join("metrics.jsonl")).unwrap();
            let record: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
            record["distance_drop_percent"].as_f64().unwrap()
        };
        let (all, upper) = (drop("all", &[]), drop("upper", &["--set", "coupling.mask=upper.npy"]));
        assert!(0.0 < upper && upper < all, "{kind}: {upper}, {all}");
    }
}

/// A mask is what its file says, not how the file is called.
#[test]
fn a_run_goes_on_with_the_mask_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |count: usize| {
        write_npy(&folder.join("mask.npy"), "|b1", "(1, 8, 8)", (0..64).map(|i| u8::from(i < count)));
    };
    let run = |steps: &str, more: &[&str]| {
        let settings = ["--coupling", "assignment", "--run", "masked", "--set", "coupling.mask=mask.npy"];
        train(folder, &[&settings, &["--set", steps][..], more].concat())
    };
    write(32);
    assert!(run("train.steps=1", &[]).status.success());
    write(31);
    let changed = run("train.steps=2", &[]);
    let message = text(&changed.stderr);
    assert_eq!((changed.status.code(), message.lines().count()), (Some(2), 1), "{message}");
    for words in ["runs/masked", "coupling.mask = \"mask.npy\"", "--run", "--fresh"] {
        assert!(message.contains(words), "{message}");
    }
    write(32);
    assert!(run("train.steps=2", &[]).status.success());
    write(31);
    assert!(run("train.steps=2", &["--fresh"]).status.success());

    // Written before the mask was.
    let data = folder.join("runs/masked/data.toml");
    let lines = std::fs::read_to_string(&data).unwrap();
    let before: String =
        lines.lines().filter(|line| !line.starts_with("mask_")).map(|l| format!("{l}\n")).collect();
    assert_ne!(before, lines);
    std::fs::write(&data, before).unwrap();
    assert!(run("train.steps=3", &[]).status.success());
    assert_eq!(std::fs::read_to_string(&data).unwrap(), lines);
}

#[test]
fn guidance_keeps_to_its_interval_and_a_threshold_changes_the_samples() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let grid = |run: &str, settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let arguments = ["train", "--preset", "digits-classes", "--run", run, "--set", "train.steps=20"];
        let learning = ["--set", "optimizer.learning_rate=0.01", "--set", "ema.decay=0.5"];
        let arguments: Vec<&str> =
            arguments.iter().chain(SMALL).chain(&learning).copied().chain(settings).collect();
        succeed(folder, &arguments);
        std::fs::read(folder.join("runs").join(run).join("samples/step-00000020.png")).unwrap()
    };
    let plain = grid("plain", &["sample.guidance=1"]);
    assert!(plain != grid("guided", &["sample.guidance=4"]));
    // No noise level is there.
    assert!(plain == grid("nowhere", &["sample.guidance=4", "sample.guidance_interval=[1e6, 1e7]"]));
    assert!(plain != grid("threshold", &["sample.guidance=1", "sample.threshold=1.0"]));
}

#[test]
fn a_scale_of_the_data_is_undone_in_sampling() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let scaled =
        ["--set", "data.scale=4", "--set", "train.steps=40", "--set", "optimizer.learning_rate=0.01"];
    let trained = train(folder, &[&scaled[..], &["--set", "ema.decay=0.5", "--run", "scaled"]].concat());
    assert!(trained.status.success(), "{}", text(&trained.stderr));
    succeed(folder, &["sample", "--checkpoint", "runs/scaled", "--n", "4", "--out", "scaled.npy"]);
    let samples = npy::read::<f32>(&folder.join("scaled.npy")).unwrap().values;
    let largest = samples.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
    // Kept in [-4, 4], and divided by 4.
    assert!(largest > 0.5 && largest <= 1.0 + 1e-5, "{largest}");

    let exported = immiscible(folder, &["export", "runs/scaled", "--to", "model"]);
    let message = text(&exported.stderr);
    assert!(exported.status.code() == Some(2) && message.contains("without a scale"), "{message}");
    let empty = tempfile::tempdir().unwrap();
    for scale in ["data.scale=0", "data.scale=nan"] {
        let message = refused(empty.path(), &["train", "--set", scale]);
        assert!(message.contains("data.scale") && message.contains("write a value > 0"), "{message}");
    }
}

#[test]
fn a_device_is_checked_when_asked_and_the_run_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let losses = |run: &str, check: &[&str]| {
        let more = [&["--run", run, "--set", "train.steps=3", "--set", "train.log_every=1"], check].concat();
        let output = train(folder.path(), &more);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(
            said.contains("device flex computes what the CPU computes"),
            check == ["--check-device"],
            "{said}"
        );
        let metrics =
            std::fs::read_to_string(folder.path().join("runs").join(run).join("metrics.jsonl")).unwrap();
        let lines = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let unchecked = losses("unchecked", &[]);
    assert_eq!(unchecked.len(), 3);
    assert_eq!(losses("checked", &["--check-device"]), unchecked);
    assert_eq!(losses("never", &["--check-device=never"]), unchecked);
}
