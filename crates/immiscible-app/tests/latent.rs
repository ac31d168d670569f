//! Latent runs from the first step to a folder of a whole pipeline, with tiny frozen networks of random weights.

use burn::tensor::Device;
use immiscible_data::npy;
use immiscible_models::{
    AutoencoderKLConfig, CLIPTextConfig, ClipTokenizer, ModelConfig, Pretrained, TextEncoder,
};
use std::fs;
use std::path::Path;

mod common;

use common::{immiscible, refused, succeed, text};

fn fresh<C: ModelConfig>(config: C) -> Pretrained<C> {
    let network = config.init(&Device::flex()).unwrap();
    Pretrained { config, network }
}

/// The parts of a pipeline without its network: `vae/` for 1×8×8 images and latents of 4×4×4, `tokenizer/` with the ten
/// digits as words, `text_encoder/`.
fn frozen(folder: &Path) {
    let vae = AutoencoderKLConfig { in_channels: 1, out_channels: 1, ..AutoencoderKLConfig::tiny() };
    fresh(vae).save_pretrained(&folder.join("vae")).unwrap();
    let tokenizer = folder.join("tokenizer");
    fs::create_dir_all(&tokenizer).unwrap();
    let words: Vec<String> = (0..10).map(|digit| format!("\"{digit}</w>\": {digit}")).collect();
    let special = r#""a</w>": 10, "<|startoftext|>": 11, "<|endoftext|>": 12"#;
    fs::write(tokenizer.join("vocab.json"), format!("{{{}, {special}}}", words.join(", "))).unwrap();
    fs::write(tokenizer.join("merges.txt"), "#version: 0.2\n").unwrap();
    let config =
        CLIPTextConfig { vocab_size: 13, bos_token_id: Some(11), eos_token_id: 12, ..CLIPTextConfig::tiny() };
    let tokenizer = ClipTokenizer::from_pretrained(&tokenizer).unwrap();
    let text = TextEncoder { tokenizer, model: fresh(config) };
    text.tokenizer.save_pretrained(&folder.join("tokenizer")).unwrap();
    text.model.save_pretrained(&folder.join("text_encoder")).unwrap();
}

const TEXT_UNET: &str = r#"model={kind="unet-condition", block_out_channels=[8,16], norm_num_groups=4, layers_per_block=1, attention_head_dim=2, down_block_types=["CrossAttnDownBlock2D","DownBlock2D"], up_block_types=["UpBlock2D","CrossAttnUpBlock2D"]}"#;
const UNET: &str = r#"model={kind="unet", block_out_channels=[8,16], norm_num_groups=4, layers_per_block=1, attention_head_dim=4, down_block_types=["DownBlock2D","AttnDownBlock2D"], up_block_types=["AttnUpBlock2D","UpBlock2D"]}"#;
const DIT: &str = r#"model={kind="dit", num_layers=1, num_attention_heads=2, attention_head_dim=4, patch_size=2, num_embeds_ada_norm=1000}"#;

/// A preset brought down to the digits and a few steps.
const SMALL: &[&str] = &[
    "--set",
    "data={name=\"digits\"}",
    "--set",
    "train.batch_size=8",
    "--set",
    "train.steps=20",
    "--set",
    "optimizer.learning_rate=1e-3",
    "--set",
    "ema.decay=0.5",
    "--set",
    "sample.steps=4",
    "--set",
    "sample.n=4",
];

fn train(preset: &str, run: &str, more: &[&str]) -> Vec<String> {
    let begin = ["train", "--preset", preset, "--run", run];
    begin.iter().chain(SMALL).chain(more).map(|argument| (*argument).to_owned()).collect()
}

fn trained(folder: &Path, preset: &str, run: &str, more: &[&str]) {
    let arguments = train(preset, run, more);
    let said = succeed(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("quality"), "{said}");
    let grid = folder.join("runs").join(run).join("samples/step-00000020.png");
    assert!(grid.is_file(), "{} has no grid of images", folder.display());
}

/// The samples that a command writes, `[N, 1, 8, 8]` and finite.
fn samples(folder: &Path, arguments: &[&str]) -> Vec<f32> {
    let common = ["sample", "--steps", "4", "--seed", "3", "--out", "samples.npy"];
    succeed(folder, &[&common[..], arguments].concat());
    let file = npy::read::<f32>(&folder.join("samples.npy")).unwrap();
    assert_eq!(file.shape[1..], [1, 8, 8], "images, not latents");
    assert!(file.values.iter().all(|value| value.is_finite()));
    file.values
}

fn class_name(folder: &Path) -> String {
    let index = fs::read_to_string(folder.join("model_index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["_class_name"].as_str().unwrap().to_owned()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_network_learns_from_texts_and_becomes_a_pipeline_that_is_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    frozen(&folder.join("frozen"));
    let both = ["--set", "latent.vae=frozen", "--set", "latent.text_encoder=frozen"];
    let settings = ["--set", TEXT_UNET, "--set", "latent.prompt=a {}", "--set", "train.class_dropout=0.2"];
    trained(folder, "sd-class-scratch-256", "text", &[&both[..], &settings].concat());
    // Texts of classes are classes: a coupling that the config leaves open keeps inside them.
    let open = ["--set", "coupling={}", "--set", "train.steps=1"];
    let open = train("sd-class-scratch-256", "open", &[&both[..], &settings, &open].concat());
    let output = immiscible(folder, &open.iter().map(String::as_str).collect::<Vec<_>>());
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("tells the class"), "{said}");
    let config = fs::read_to_string(folder.join("runs/open/config.toml")).unwrap();
    assert!(config.contains("kind = \"assignment\"") && config.contains("class_wise = true"), "{config}");

    let draw = |more: &[&str]| samples(folder, &[&["--checkpoint", "runs/text", "--n", "2"], more].concat());
    let three = draw(&["--class", "3"]);
    assert_eq!(three, draw(&["--prompt", "a 3"]), "a class is its text");
    assert_ne!(three, draw(&["--class", "4"]));
    assert_ne!(
        three,
        draw(&["--class", "3", "--guidance", "1"]),
        "the empty text is the other side of guidance"
    );
    let output = immiscible(folder, &["sample", "--checkpoint", "runs/text", "--class", "10"]);
    assert_eq!(output.status.code(), Some(2));

    succeed(folder, &["export", "runs/text", "--to", "exported"]);
    assert_eq!(class_name(&folder.join("exported")), "StableDiffusionPipeline");
    let model = ["--model", "exported", "--n", "2", "--prompt", "a 3", "--guidance", "7.5"];
    let off = furthest(&three, &samples(folder, &model));
    assert!(off < 1e-4, "the folder draws other images, off by {off}");

    for from in [["--model", "exported"], ["--checkpoint", "runs/text"]] {
        let jump = ["sample", from[0], from[1], "--prompt", "a 3", "--sampler", "consistency"];
        let output = immiscible(folder, &jump);
        assert_eq!(output.status.code(), Some(2), "{from:?}: {}", text(&output.stderr));
    }

    // Autoencoder and text encoder come from the folder that the network comes from.
    let init = ["--init", "exported", "--set", "latent.prompt=a {}"];
    trained(folder, "sd-class-finetune-256", "tuned", &init);
    let tuned = samples(folder, &["--checkpoint", "runs/tuned", "--n", "2", "--class", "3"]);
    assert_ne!(three, tuned);
    succeed(folder, &["export", "runs/tuned", "--to", "tuned"]);
    let model = ["--model", "tuned", "--n", "2", "--prompt", "a 3", "--guidance", "7.5"];
    let off = furthest(&tuned, &samples(folder, &model));
    assert!(off < 1e-4, "the folder of the tuned network draws other images, off by {off}");
}

#[test]
fn latents_without_a_condition_or_with_classes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    frozen(&folder.join("frozen"));
    let preset = "latent-unconditional-256";
    let vae = ["--set", "latent.vae=frozen/vae"];
    for (run, coupling) in [("assignment", "assignment"), ("knn", "knn")] {
        trained(folder, preset, run, &[&vae[..], &["--set", UNET, "--coupling", coupling]].concat());
    }
    let whole = [&vae[..], &["--set", UNET]].concat();
    let half = [&whole[..], &["--set", "train.steps=9"]].concat();
    let arguments = train(preset, "parts", &half);
    succeed(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    trained(folder, preset, "parts", &whole);
    for file in ["model.safetensors", "ema.safetensors"] {
        let read =
            |run: &str| fs::read(folder.join("runs").join(run).join("checkpoints/step-00000020").join(file));
        assert!(read("assignment").unwrap() == read("parts").unwrap(), "{file} of a run that was resumed");
        assert!(read("assignment").unwrap() != read("knn").unwrap());
    }
    let mean = [&whole[..], &["--set", "latent.posterior=mean"]].concat();
    trained(folder, preset, "mean", &mean);
    let weights =
        |run: &str| fs::read(folder.join(format!("runs/{run}/checkpoints/step-00000020/model.safetensors")));
    assert!(weights("assignment").unwrap() != weights("mean").unwrap());

    succeed(folder, &["export", "runs/assignment", "--to", "exported"]);
    assert_eq!(class_name(&folder.join("exported")), "LDMPipeline");
    let from = |what: [&str; 2]| samples(folder, &[&what[..], &["--n", "3"]].concat());
    let off = furthest(&from(["--checkpoint", "runs/assignment"]), &from(["--model", "exported"]));
    assert!(off < 1e-4, "the folder draws other images, off by {off}");

    let classes = ["--set", DIT, "--set", "coupling.class_wise=true", "--set", "train.class_dropout=0.1"];
    trained(folder, preset, "classes", &[&vae[..], &classes].concat());
    // The package's pipeline for transformers cannot run the preset's pndm.
    succeed(folder, &["export", "runs/classes", "--to", "classes", "--sampler", "ddim"]);
    assert_eq!(class_name(&folder.join("classes")), "DiTPipeline");
    let from = |what: [&str; 2]| {
        samples(folder, &[&what[..], &["--n", "3", "--class", "7", "--sampler", "ddim"]].concat())
    };
    let off = furthest(&from(["--checkpoint", "runs/classes"]), &from(["--model", "classes"]));
    assert!(off < 1e-4, "the folder draws other images, off by {off}");
}

#[test]
fn a_dry_run_says_what_would_be_trained_and_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    frozen(&folder.join("frozen"));
    let preset = "sd-class-scratch-256";
    let dry = |more: &[&str]| train(preset, "r", &[more, &["--set", TEXT_UNET, "--dry-run"]].concat());
    let bad = |more: &[&str], words: &[&str]| {
        let arguments = dry(more);
        let message = refused(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(words.iter().all(|word| message.contains(word)), "{more:?}: {message}");
    };
    bad(&[], &["latent.vae is unset"]);
    bad(&["--set", "latent.vae=nowhere"], &["latent.vae", "nowhere"]);
    bad(&["--set", "latent.vae=frozen"], &["latent.text_encoder is unset"]);
    let both = ["--set", "latent.vae=frozen", "--set", "latent.text_encoder=frozen"];
    bad(&[&both[..], &["--set", "sample.clip=true"]].concat(), &["sample.clip"]);
    bad(&[&both[..], &["--set", "latent.prompt=a photo"]].concat(), &["latent.prompt", "{}"]);
    let consistent = [&both[..], &["--set", "method.kind=consistency"]].concat();
    bad(&consistent, &["method.kind = consistency", "objective.name = epsilon"]);
    // Couplings that must see more than a batch, which is all that is encoded at once.
    for coupling in ["window", "priced_knn"] {
        let ahead = [&both[..], &["--coupling", coupling]].concat();
        bad(&ahead, &[&format!("coupling.kind = \"{coupling}\""), "`immiscible data encode`"]);
    }

    let arguments = dry(&both);
    let said = succeed(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for words in ["unet-condition with", "digits (built in): 1797 of 1×8×8, 10 classes", "4×4×4", "20 of 8"]
    {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(!folder.join("runs").exists(), "a dry run leaves nothing behind");
}

#[test]
fn a_consistency_run_is_sampled_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let settings = [
        "--set",
        "method={kind=\"improved_consistency\", s0=4, s1=16}",
        "--set",
        "optimizer.warmup_steps=0",
        "--set",
        UNET,
        "--set",
        "sample.n=4",
    ];
    trained(folder, "cifar10-consistency", "c", &settings);
    let draw = |steps: &str, more: &[&str]| {
        let arguments =
            [&["sample", "--checkpoint", "runs/c", "--n", "2", "--steps", steps, "--out", "s.npy"], more];
        succeed(folder, &arguments.concat());
        npy::read::<f32>(&folder.join("s.npy")).unwrap().values
    };
    assert!(draw("1", &[]).iter().all(|value| value.is_finite()));
    assert_ne!(draw("1", &[]), draw("2", &[]));
    // A folder draws the same where the number of steps divides s1.
    let exported = succeed(folder, &["export", "runs/c", "--to", "c"]);
    assert!(exported.contains("ConsistencyModelPipeline"), "{exported}");
    for steps in [None, Some("2"), Some("4")] {
        let run = draw(steps.unwrap_or("1"), &[]);
        let steps: Vec<_> = steps.iter().flat_map(|steps| ["--steps", steps]).collect();
        let arguments = ["sample", "--model", "c", "--n", "2", "--out", "s.npy"];
        succeed(folder, &[&arguments[..], &steps].concat());
        let model = npy::read::<f32>(&folder.join("s.npy")).unwrap().values;
        assert!(run.iter().zip(&model).all(|(a, b)| (a - b).abs() < 1e-4), "{run:?} {model:?}");
    }
    let ddim = immiscible(folder, &["sample", "--model", "c", "--sampler", "ddim"]);
    let message = text(&ddim.stderr);
    assert_eq!(ddim.status.code(), Some(2), "{message}");
    assert!(message.contains("\"ddim\"") && message.contains("consistency"), "{message}");
    let ddim = immiscible(folder, &["sample", "--checkpoint", "runs/c", "--sampler", "ddim"]);
    let message = text(&ddim.stderr);
    assert_eq!(ddim.status.code(), Some(2), "{message}");
    assert!(message.contains("sample.sampler") && message.contains("method.kind"), "{message}");
    // How long the run is decides the grid of noise levels at every step.
    let lpips = train("cifar10-consistency", "l", &["--set", UNET]);
    let output = immiscible(folder, &lpips.iter().map(String::as_str).collect::<Vec<_>>());
    let message = text(&output.stderr);
    assert!(message.contains("method.lpips = unset") && !folder.join("runs/l").exists(), "{message}");
    let longer = train("cifar10-consistency", "c", &[&settings[..], &["--set", "train.steps=30"]].concat());
    let output = immiscible(folder, &longer.iter().map(String::as_str).collect::<Vec<_>>());
    let message = text(&output.stderr);
    assert!(message.contains("method.curriculum_steps: 20 -> "), "{message}");
}
