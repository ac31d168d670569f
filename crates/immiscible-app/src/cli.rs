//! What can be written on the command line.

use crate::device_check::When;
use crate::progress::Ui;
use clap::{Args, Parser, Subcommand};
use immiscible_coupling::SemidiscreteOptions;
use std::path::PathBuf;

/// What the command's exit status says.
pub(crate) const EXIT_STATUS: &str = "\
Exit status:
  0    it is done
  1    something failed while it ran
  2    the command, the config or the data are not as they must be; nothing was done
  3    another process trains in this run
  4    the device failed, or its memory is used up
  130  stopped by SIGINT (Ctrl-C), after a checkpoint if it was training
  143  stopped by SIGTERM, likewise";

/// Trains diffusion models with well-chosen noise, and samples from them.
#[derive(Debug, Parser)]
#[command(name = "immiscible", version, after_help = EXIT_STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model, or go on with a run that was interrupted.
    Train(Train),
    /// Draw samples from a run, or from a model's folder in diffusers' layout.
    Sample(Sample),
    /// Write a run's network as a folder that the Python package diffusers opens.
    Export(Export),
    /// Write one page on one or several runs: curves, samples, coupling, throughput and config.
    Report(Report),
    /// Look after the checkpoints of a run.
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Say which noise each image takes, from .npy files of float16, float32 or float64.
    Assign(Assign),
    /// Try couplings on a data set, without training.
    #[command(subcommand)]
    Coupling(Coupling),
    /// Measure training steps: time and memory by network, coupling and batch size.
    BenchStep(BenchStep),
    /// Run the same checks as on every other device: networks, losses, samplers, couplings and training.
    #[cfg(feature = "flex")]
    DeviceSuite(crate::device_suite::Arguments),
    /// Fetch data sets, look for damage in them, or turn them into latents.
    #[command(subcommand)]
    Data(Data),
    /// List the devices that this binary can use and this machine offers, with their memory.
    Devices,
    /// List presets and every part that a config can name.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Checkpoint {
    /// Read every checkpoint and compare it with its manifest; exit status 1 if one is damaged.
    Verify {
        /// A run directory, such as runs/digits.
        run: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Read every sample: what is damaged, how many there are of each class and size, mean and deviation.
    Check(DataCheck),
    /// Download a data set, whole and with its check sum, or not at all.
    Fetch(DataFetch),
    /// Write what an autoencoder makes of the images, so that a run need not make it again in every step.
    Encode(DataEncode),
}

#[derive(Debug, Args)]
pub(crate) struct DataCheck {
    /// The file or folder.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// What it is, a name of `immiscible list`; told by the files if absent.
    #[arg(long, value_name = "NAME")]
    pub(crate) kind: Option<String>,
    /// Set one key of the config's table `data`, such as split=test; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DataFetch {
    /// What to fetch: celeba, cifar10, cifar100, fashion-mnist, imagenette, kmnist or mnist.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The folder that it goes to; NAME if absent. What is there already is checked and kept.
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Option<PathBuf>,
    /// The address of a copy, up to the names of the files.
    #[arg(long, value_name = "URL")]
    pub(crate) url_base: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DataEncode {
    /// The data set: NAME:PATH, such as folder:DIR, or NAME where it is built in.
    #[arg(value_name = "DATA")]
    pub(crate) data: String,
    /// The folder of the autoencoder, or of a pipeline that has one.
    #[arg(long, value_name = "DIR")]
    pub(crate) vae: PathBuf,
    /// The file to write; what an interrupted run left beside it is gone on with.
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) out: PathBuf,
    /// Write a draw from the autoencoder's distribution for each image, and not its mean.
    #[arg(long)]
    pub(crate) sample: bool,
    /// Seed of that draw.
    #[arg(long, default_value_t = 0, requires = "sample")]
    pub(crate) seed: u64,
    /// Set one key of the config's table `data`, such as image_size=256; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// A device, as `immiscible devices` lists them.
    #[arg(long, default_value = "flex")]
    pub(crate) device: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Coupling {
    /// Fit semidiscrete prices to a data set: the alignment that no coupling with standard normal noise exceeds.
    Fit(CouplingFit),
    /// Say what each coupling reaches on a data set, what it does to the noise, and what it costs.
    Bench(CouplingBench),
}

/// Images to try couplings on.
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// A .npy file, [N, ...], images [N, ..., H, W], or NAME:PATH of a data set, such as digits, fashion-mnist:DIR or folder:DIR.
    #[arg(value_name = "DATA")]
    pub(crate) data: String,
    /// A vector of N whole numbers for a .npy file: the classes.
    #[arg(long)]
    pub(crate) labels: Option<PathBuf>,
    /// Side that a folder brings its images to.
    #[arg(long)]
    pub(crate) image_size: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct CouplingFit {
    #[command(flatten)]
    pub(crate) data: Images,
    /// Prices of their own for each class.
    #[arg(long)]
    pub(crate) class_wise: bool,
    /// An image and its mirror image share a price.
    #[arg(long)]
    pub(crate) flip: bool,
    /// Fit until χ² of the images against uniform ones is at most this.
    #[arg(long, default_value_t = SemidiscreteOptions::default().chi_squared)]
    pub(crate) chi_squared: f64,
    /// Gradients at most.
    #[arg(long, default_value_t = SemidiscreteOptions::default().most_steps)]
    pub(crate) steps: usize,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The file to write.
    #[arg(long)]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CouplingBench {
    #[command(flatten)]
    pub(crate) data: Images,
    /// How many images are paired together, by assignment up to 1024 and by window above.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 1024])]
    pub(crate) pools: Vec<usize>,
    /// Candidates of knn and priced_knn.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 16, 64])]
    pub(crate) candidates: Vec<usize>,
    /// Images that are drawn for; 8192, or all if there are fewer, and at least the largest pool.
    #[arg(long)]
    pub(crate) rows: Option<usize>,
    /// Prices that `immiscible coupling fit` wrote for the same data; fitted to the drawn images if absent, which takes minutes
    /// where they are many.
    #[arg(long)]
    pub(crate) prices: Option<PathBuf>,
    /// Fit no prices, and leave out the share of the full alignment, which they tell.
    #[arg(long, conflicts_with = "prices")]
    pub(crate) no_prices: bool,
    /// Seed of the noise and of the choice of images.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// What the report calls the data set; if absent by the name of its kind, or of its file where that tells nothing.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A line for the report, which names the machine, the commit, the day and the command by itself.
    #[arg(long)]
    pub(crate) note: Option<String>,
    /// Also write the table, its numbers and a plot to this name with .md, .json and .svg.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchStep {
    /// A device, as `immiscible devices` lists them.
    #[arg(long, default_value = "flex")]
    pub(crate) device: String,
    /// Sizes of networks; see model.size of `immiscible list`.
    #[arg(long, value_delimiter = ',', default_values = ["ddpm-cifar10", "DiT-S/2", "DiT-B/4"])]
    pub(crate) networks: Vec<String>,
    /// What networks compute in: f32, or bf16 on devices that have it.
    #[arg(long, value_delimiter = ',', default_values = ["f32"])]
    pub(crate) precisions: Vec<String>,
    /// Kinds of couplings, each of a batch.
    #[arg(long, value_delimiter = ',', default_values = ["independent", "assignment", "knn"])]
    pub(crate) couplings: Vec<String>,
    /// Images of a batch, the smallest first; what is too much for the memory ends the row.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192])]
    pub(crate) batches: Vec<usize>,
    /// Images whose gradient is computed at once, as train.micro_batch; all of a batch if absent.
    #[arg(long, value_name = "IMAGES")]
    pub(crate) micro_batch: Option<usize>,
    /// Steps that count.
    #[arg(long, default_value_t = 10)]
    pub(crate) steps: u64,
    /// Steps ahead of them: the first compiles kernels, and the first two find memory that was never touched.
    #[arg(long, value_name = "STEPS", default_value_t = 2)]
    pub(crate) warm: u64,
    /// Larger batches are not tried once a step takes longer.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) most_seconds: f64,
    /// A Python that has torch and diffusers: the same networks there, eager and compiled, are rows of the table.
    #[arg(long)]
    pub(crate) python: Option<PathBuf>,
    /// How PyTorch runs them: eager, or compile, which takes minutes for each batch.
    #[arg(long, value_delimiter = ',', default_values = ["eager", "compile"], requires = "python")]
    pub(crate) pytorch: Vec<String>,
    /// Also write the table and its numbers to this name with .md and .json.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Measure the first of everything in this process, and print it as JSON.
    #[arg(long, hide = true)]
    pub(crate) one: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    /// A built-in config; see `immiscible list`.
    #[arg(long, default_value = "digits", conflicts_with = "config")]
    pub(crate) preset: String,
    /// A config file instead of a preset, such as the config.toml of a run.
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// flex (the CPU), or a GPU: cuda, vulkan or wgpu, with :0, :1 … for one of several; short for --set device=…
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// A kind of coupling, with those of the preset's options that it has: independent, assignment, window, knn, priced_knn …
    #[arg(long)]
    pub(crate) coupling: Option<String>,
    /// Change one key of the config; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Name of the run directory under --runs; the preset and the coupling if absent.
    #[arg(long)]
    pub(crate) run: Option<String>,
    /// Folder that holds the run directories.
    #[arg(long, default_value = "runs")]
    pub(crate) runs: PathBuf,
    /// Start from the network in a folder of diffusers' layout; its settings take the place of the config's model table.
    #[arg(long, value_name = "DIR")]
    pub(crate) init: Option<PathBuf>,
    /// Throw an existing run directory of this name away instead of going on with it.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Compare, before the first step, what the device computes with the network with what the CPU computes; auto is on GPUs.
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "never",
        default_missing_value = "always",
        num_args = 0..=1,
        require_equals = true
    )]
    pub(crate) check_device: When,
    /// How progress is shown.
    #[arg(long, value_enum, default_value = "bar")]
    pub(crate) ui: Ui,
    /// Check and build everything, say what would be trained on what, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Sample {
    /// A run directory, such as runs/digits.
    #[arg(long, required_unless_present = "model")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// A folder in diffusers' layout instead, with model_index.json and scheduler/.
    #[arg(long, conflicts_with = "checkpoint")]
    pub(crate) model: Option<PathBuf>,
    /// Another average of the run's weights: a name in its config's table `ema.others`.
    #[arg(long, value_name = "NAME", requires = "checkpoint")]
    pub(crate) ema: Option<String>,
    /// How many samples; as many as --noise or --labels has rows, or 64.
    #[arg(long)]
    pub(crate) n: Option<usize>,
    /// A .npy file with the noise that sampling starts from, [N, C, H, W], instead of a seed's.
    #[arg(long)]
    pub(crate) noise: Option<PathBuf>,
    /// A .npy file with the class of every sample, whole numbers.
    #[arg(long, conflicts_with = "class")]
    pub(crate) labels: Option<PathBuf>,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Sampling steps; if absent the config's, or 50 for a folder, 1 if it holds a consistency function.
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Sampler; the config's, or that of the folder's scheduler, if absent.
    #[arg(long)]
    pub(crate) sampler: Option<String>,
    /// Class of every sample; all classes in turn if absent, but that a UNet's folder must be told.
    #[arg(long)]
    pub(crate) class: Option<u32>,
    /// What the samples show, for a network with a text encoder; if repeated, one after the other in turn.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["class", "labels"])]
    pub(crate) prompt: Vec<String>,
    /// The class that a UNet's folder was trained with where it saw none, for --guidance; a transformer's is the last.
    #[arg(long, value_name = "CLASS", requires = "model")]
    pub(crate) null_class: Option<u32>,
    /// Classifier-free guidance weight, 1 for none; the config's, or 1 for a folder, if absent.
    #[arg(long)]
    pub(crate) guidance: Option<f64>,
    /// A .png file for one grid, a .npy file for the numbers, float32 [N, C, H, W], or a folder for single images.
    #[arg(long, default_value = "samples.png")]
    pub(crate) out: PathBuf,
    /// Also a .gif file: the grid on its way from the noise to the samples.
    #[arg(long, value_name = "FILE")]
    pub(crate) gif: Option<PathBuf>,
    /// Frames of --gif, at least 2 and at most one a step and one for the noise; 24 if absent.
    #[arg(long, requires = "gif")]
    pub(crate) frames: Option<usize>,
    /// A device, as `immiscible devices` lists them; the config's if absent, or flex, the CPU.
    #[arg(long)]
    pub(crate) device: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A run directory, such as runs/digits, or a folder in diffusers' layout, which is written anew: as safetensors in one
    /// file, with today's names.
    pub(crate) run: PathBuf,
    /// The folder to write; it must not hold anything yet.
    #[arg(long)]
    pub(crate) to: PathBuf,
    /// The folder of the autoencoder whose latents the run was trained on, which then becomes part of it.
    #[arg(long, value_name = "DIR")]
    pub(crate) vae: Option<PathBuf>,
    /// The sampler that the folder's scheduler is made for; the run's if absent.
    #[arg(long)]
    pub(crate) sampler: Option<String>,
    /// The weights of the last step, and not their average.
    #[arg(long)]
    pub(crate) last: bool,
    /// Another average of the weights: a name in the config's table `ema.others`.
    #[arg(long, value_name = "NAME", conflicts_with = "last")]
    pub(crate) ema: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Run directories, such as runs/digits; the curves of several are drawn together.
    #[arg(value_name = "RUN", required = true)]
    pub(crate) runs: Vec<PathBuf>,
    /// The file to write; it needs no other.
    #[arg(long, default_value = "report.html")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Assign {
    /// The images, [B, ...]; all axes but the first are one vector.
    pub(crate) data: Option<PathBuf>,
    /// The noises, [M, ...] with M of at least B; for knn [B, k, ...], or B*k rows, those of one image together.
    pub(crate) noise: Option<PathBuf>,
    /// The costs, [B, M] (for knn [B, k]), instead of images and noises; lower is better.
    #[arg(long, value_name = "COSTS", conflicts_with_all = ["data", "cost", "precision"])]
    pub(crate) cost_matrix: Option<PathBuf>,
    /// How to choose; see `immiscible list`.
    #[arg(long, default_value = "exact")]
    pub(crate) solver: String,
    /// What an image and a noise cost: dot, squared_l2, l2 or l1.
    #[arg(long, default_value = "dot")]
    pub(crate) cost: String,
    /// Images and noises as they are, float32, or rounded to 8 bits for the costs, int8.
    #[arg(long, default_value = "float32")]
    pub(crate) precision: String,
    /// A vector of B whole numbers: images take noises of their own label only. That of noise j is that of image j mod B.
    #[arg(long)]
    pub(crate) labels: Option<PathBuf>,
    /// A .npy file of int64 for the noise of each image; of knn the candidate, 0 to k - 1.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}
