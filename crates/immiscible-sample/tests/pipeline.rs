//! Pipeline folders go out and come back.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use immiscible_models::{
    AutoencoderKLConfig, CLIPTextConfig, ClipTokenizer, DiTConfig, ModelConfig, NetworkConfig, PerBlock,
    Pretrained, TextEncoder, UNet2DConditionConfig, UNet2DConfig,
};
use immiscible_sample::{Pipeline, Scheduler};

fn fresh<C: ModelConfig>(config: C) -> Pretrained<C> {
    let network = config.init(&Device::flex()).unwrap();
    Pretrained { config, network }
}

fn scheduler(class: &str) -> Scheduler {
    Scheduler::from_json(&format!(r#"{{"_class_name": "{class}"}}"#)).unwrap()
}

fn vae() -> Pretrained<AutoencoderKLConfig> {
    fresh(AutoencoderKLConfig::tiny())
}

/// A text encoder that knows the words `a` and `b`.
fn text(folder: &Path) -> TextEncoder {
    fs::create_dir_all(folder).unwrap();
    let vocabulary = r#"{"a</w>": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
    fs::write(folder.join("vocab.json"), vocabulary).unwrap();
    fs::write(folder.join("merges.txt"), "#version: 0.2\n").unwrap();
    let config =
        CLIPTextConfig { vocab_size: 4, bos_token_id: Some(2), eos_token_id: 3, ..CLIPTextConfig::tiny() };
    TextEncoder { tokenizer: ClipTokenizer::from_pretrained(folder).unwrap(), model: fresh(config) }
}

fn unet(in_channels: usize) -> NetworkConfig {
    NetworkConfig::UNet2DModel(UNet2DConfig {
        in_channels,
        out_channels: in_channels,
        ..UNet2DConfig::tiny()
    })
}

fn text_unet() -> NetworkConfig {
    NetworkConfig::UNet2DConditionModel(UNet2DConditionConfig {
        in_channels: 4,
        out_channels: 4,
        cross_attention_dim: PerBlock::All(CLIPTextConfig::tiny().hidden_size),
        ..UNet2DConditionConfig::tiny()
    })
}

fn dit(num_embeds_ada_norm: usize) -> NetworkConfig {
    NetworkConfig::DiTTransformer2DModel(DiTConfig {
        in_channels: 4,
        out_channels: Some(8),
        num_embeds_ada_norm,
        ..DiTConfig::tiny()
    })
}

#[test]
fn every_pipeline_comes_back_with_all_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let parts = |config, class, with_vae: bool, with_text: bool| Pipeline {
        vae: with_vae.then(vae),
        text: with_text.then(|| text(&folder.join("words"))),
        labels: [(3, "three".to_owned())].into(),
        ..Pipeline::new(fresh(config), scheduler(class))
    };
    let flow = "FlowMatchEulerDiscreteScheduler";
    for (class, pipeline) in [
        (Some("DDIMPipeline"), parts(unet(3), "DDIMScheduler", false, false)),
        (Some("DDPMPipeline"), parts(unet(3), flow, false, false)),
        (Some("ConsistencyModelPipeline"), parts(unet(3), "CMStochasticIterativeScheduler", false, false)),
        (Some("LDMPipeline"), parts(unet(4), "DDIMScheduler", true, false)),
        (Some("StableDiffusionPipeline"), parts(text_unet(), "DDIMScheduler", true, true)),
        (Some("DiTPipeline"), parts(dit(1000), "DDPMScheduler", true, false)),
        (None, parts(dit(1000), flow, true, false)),
        (None, parts(dit(10), "DDIMScheduler", true, false)),
    ] {
        let to = folder.join(class.unwrap_or("bare"));
        pipeline.save_pretrained(&to).unwrap();
        let read = Pipeline::from_pretrained(&to, &Device::flex()).unwrap();
        assert_eq!(read.class_name(), class);
        assert_eq!(read.model.config, pipeline.model.config);
        assert_eq!(read.scheduler.class_name(), pipeline.scheduler.class_name());
        assert_eq!(read.vae.map(|vae| vae.config), pipeline.vae.map(|vae| vae.config));
        assert_eq!(read.labels.is_empty(), class != Some("DiTPipeline"));
        let states = |text: Option<TextEncoder>| {
            let states = text?.encode(&["a b", "b"], &Device::flex()).unwrap();
            assert_eq!(states.dims(), [2, 10, 12]);
            Some(states.into_data())
        };
        assert_eq!(states(read.text), states(pipeline.text));
        fs::remove_dir_all(&to).unwrap();
    }
}

/// Of a learned variance the package's pipelines for UNets know by their scheduler, and that for transformers drops it.
#[test]
fn a_learned_variance_goes_where_the_package_can_run_it() {
    let learned = || {
        let settings = r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#;
        Scheduler::from_json(settings).unwrap()
    };
    let fixed = || scheduler("DDPMScheduler");
    let twice =
        NetworkConfig::UNet2DModel(UNet2DConfig { in_channels: 3, out_channels: 6, ..UNet2DConfig::tiny() });
    let class = |config: &NetworkConfig, scheduler: Scheduler| {
        let vae = matches!(config, NetworkConfig::DiTTransformer2DModel(_)).then(vae);
        Pipeline { vae, ..Pipeline::new(fresh(config.clone()), scheduler) }.class_name()
    };
    assert_eq!(class(&twice, learned()), Some("DDPMPipeline"));
    assert_eq!(class(&twice, fixed()), None);
    assert_eq!(class(&twice, scheduler("DDIMScheduler")), None);
    assert_eq!(class(&unet(3), fixed()), Some("DDPMPipeline"));
    assert_eq!(class(&unet(3), learned()), None);
    assert_eq!(class(&dit(1000), fixed()), Some("DiTPipeline"));
    assert_eq!(class(&dit(1000), learned()), None);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let refuse = |pipeline: Pipeline, words: &[&str]| {
        let to = folder.join("model");
        pipeline.save_pretrained(&to).unwrap();
        let error = Pipeline::from_pretrained(&to, &Device::flex()).err().expect("an error").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        fs::remove_dir_all(&to).unwrap();
    };
    let ddim = || scheduler("DDIMScheduler");
    refuse(
        Pipeline { vae: Some(vae()), ..Pipeline::new(fresh(unet(3)), ddim()) },
        &["autoencoder", "4", "3"],
    );
    let parts = |config, text| Pipeline {
        vae: Some(vae()),
        text: Some(text),
        ..Pipeline::new(fresh(config), ddim())
    };
    let words = || text(&folder.join("words"));
    let mut wide = UNet2DConditionConfig { in_channels: 4, out_channels: 4, ..UNet2DConditionConfig::tiny() };
    wide.cross_attention_dim = PerBlock::All(20);
    refuse(parts(NetworkConfig::UNet2DConditionModel(wide), words()), &["text encoder", "12", "20"]);
    let few = CLIPTextConfig { vocab_size: 3, ..words().model.config };
    refuse(parts(text_unet(), TextEncoder { model: fresh(few), ..words() }), &["vocab_size", "up to 3"]);
}

#[test]
fn the_states_of_a_text_know_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let states = |texts: &[&str]| -> Tensor<3> { text.encode(texts, &Device::flex()).unwrap() };
    let [a, b, both] = ["a", "b", "a b"].map(|text| states(&[text]));
    assert_ne!(a.to_data(), b.to_data());
    // Tokens see what comes before them: the first two are the same.
    let start = |states: Tensor<3>| states.narrow(1, 0, 2).into_data();
    start(a.clone()).assert_approx_eq::<f32>(&start(both.clone()), burn::tensor::Tolerance::absolute(1e-6));
    assert_ne!(a.to_data(), both.to_data());
}
