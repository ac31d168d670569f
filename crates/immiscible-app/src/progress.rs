//! What a person sees while a run trains: a bar on a terminal, a line now and then elsewhere.

use crate::parts::{Parts, out_channels};
use crate::{grid, signals::Signals};
use burn::tensor::Tensor;
use immiscible_models::{Condition, Ctx, Denoiser, Network, Output, TimeInput};
use immiscible_train::{Average, Checkpoint, Observer, StepReport, TrainError};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Shows progress and draws the sample grids.
pub(crate) struct Progress<'a> {
    parts: &'a Parts,
    samples: PathBuf,
    signals: Signals,
    bar: Option<ProgressBar>,
    first_step: u64,
    started: Instant,
    last_line: Instant,
    last_skip: Option<Instant>,
    /// Whether it was told that there is no grid.
    no_grid: bool,
    /// The newest grid.
    pub(crate) grid: Option<PathBuf>,
}

/// A network that answers nothing once it is to stop, so that a grid that nobody will see is soon done.
struct Interruptible<'a> {
    network: &'a Network,
    signals: &'a Signals,
    channels: usize,
}

impl Denoiser for Interruptible<'_> {
    fn forward(&self, x: Tensor<4>, t: TimeInput, condition: &Condition, ctx: Ctx<'_>) -> Output {
        if !self.signals.received() {
            return self.network.forward(x, t, condition, ctx);
        }
        let [batch, _, height, width] = x.dims();
        let pred = Tensor::zeros([batch, self.channels, height, width], &x.device());
        Output { pred, aux: Vec::new(), taps: Vec::new(), heads: Vec::new() }
    }
}

impl<'a> Progress<'a> {
    /// Grids go to the folder `samples`.
    pub(crate) fn new(parts: &'a Parts, samples: PathBuf, signals: Signals) -> Self {
        let now = Instant::now();
        Self {
            parts,
            samples,
            signals,
            bar: None,
            first_step: 0,
            started: now,
            last_line: now,
            last_skip: None,
            no_grid: false,
            grid: None,
        }
    }

    fn say(&self, line: String) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => crate::say(line),
        }
    }

    fn numbers(&self, report: &StepReport, total: &Average) -> String {
        format!(
            "{:.0} img/s  loss {:.4}  {} {:.2} ms ({:.1} % of the step)",
            total.images_per_second(self.parts.config.train.batch_size),
            report.loss,
            self.parts.config.coupling.kind,
            total.coupling_ms(),
            total.coupling_share_percent(),
        )
    }

    /// Draws the grid of `step`.
    pub(crate) fn draw_grid(&mut self, step: u64, network: &Network) {
        let path = self.samples.join(format!("step-{step:08}.png"));
        let seed = self.parts.config.seed;
        let channels = out_channels(&self.parts.config, self.parts.shape[0]);
        let network = Interruptible { network, signals: &self.signals, channels };
        let drawn = self.parts.sample(&network, self.parts.config.sample.n, seed).and_then(|samples| {
            let wanted = !self.signals.received();
            if wanted { grid::save(samples.view(), &path).map(|()| true) } else { Ok(false) }
        });
        match drawn {
            Ok(true) => self.grid = Some(path),
            Ok(false) => {}
            // A picture is not worth a run.
            Err(error) if !self.no_grid => {
                self.no_grid = true;
                self.say(format!("warning: no sample grid at step {step}: {error:#}; training goes on"));
            }
            Err(_) => {}
        }
    }
}

impl Observer for Progress<'_> {
    fn start(&mut self, step: u64, skipped: &[TrainError]) {
        for error in skipped {
            crate::say(format_args!("warning: {error}"));
        }
        if step > 0 {
            crate::say(format_args!("going on from step {step}"));
        }
        let steps = self.parts.config.train.steps;
        (self.first_step, self.started, self.last_line) = (step, Instant::now(), Instant::now());
        if std::io::stderr().is_terminal() && step < steps {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  ETA {eta}  {msg}");
            let bar = ProgressBar::new(steps).with_position(step);
            bar.reset_eta();
            self.bar = Some(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
        }
    }

    fn step(&mut self, step: u64, report: &StepReport, total: &Average) {
        let steps = self.parts.config.train.steps;
        match &self.bar {
            Some(bar) => {
                bar.set_position(step);
                bar.set_message(self.numbers(report, total));
                if step == steps {
                    bar.finish();
                }
            }
            None if self.last_line.elapsed() >= LINE || step == steps => {
                self.last_line = Instant::now();
                let seconds = self.started.elapsed().as_secs_f64() / (step - self.first_step) as f64;
                let left = seconds * (steps - step) as f64;
                crate::say(format_args!(
                    "step {step}/{steps}  ETA {left:.0} s  {}",
                    self.numbers(report, total)
                ));
            }
            None => {}
        }
    }

    fn skipped(&mut self, step: u64, reason: &TrainError) {
        // The number of them stands in metrics.jsonl and at the end.
        if self.last_skip.is_none_or(|last| last.elapsed() >= LINE) {
            self.last_skip = Some(Instant::now());
            self.say(format!("warning: {reason}; the step is skipped"));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    fn saved(&mut self, checkpoint: &Checkpoint) {
        if self.bar.is_none() {
            crate::say(format_args!("saved step {}", checkpoint.step));
        }
    }

    fn warn(&mut self, warning: &TrainError) {
        self.say(format!("warning: {warning}"));
    }

    fn stop(&mut self) -> bool {
        self.signals.received()
    }

    fn evaluate(&mut self, step: u64, network: &Network) {
        let config = &self.parts.config;
        if step.is_multiple_of(config.sample.every) || step == config.train.steps {
            self.draw_grid(step, network);
        }
    }
}
