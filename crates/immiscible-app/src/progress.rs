//! What a person sees while a run trains: a bar on a terminal, or all of it, a line now and then elsewhere.

use crate::eta::Eta;
use crate::parts::{Parts, out_channels};
use crate::screen::Screen;
use crate::tensorboard::{self, TensorBoard};
use crate::{grid, signals::Signals, train};
use burn::tensor::Tensor;
use immiscible_models::{Condition, Ctx, Denoiser, Network, Output, TimeInput};
use immiscible_train::{Average, Checkpoint, Observer, Record, StepReport, TrainError};
use indicatif::{FormattedDuration, ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ui {
    /// A bar, or where there is no terminal a line now and then.
    Bar,
    /// The whole terminal, with the curve of the loss.
    Tui,
}

/// What it is shown on.
enum Display {
    Lines,
    Bar(ProgressBar),
    Screen(Box<Screen>),
}

/// Shows progress and draws the sample grids.
pub(crate) struct Progress<'a> {
    parts: &'a Parts,
    run: PathBuf,
    signals: Signals,
    ui: Ui,
    display: Display,
    tensorboard: Option<TensorBoard>,
    eta: Eta,
    /// When that which is now timed began: a step, a checkpoint or a grid.
    begun: Instant,
    last_line: Instant,
    last_skip: Option<Instant>,
    /// Whether it was told that there is no grid.
    no_grid: bool,
    /// Whether it was told that TensorBoard's files cannot be written.
    no_tensorboard: bool,
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
    /// Of the training in the directory `run`.
    pub(crate) fn new(parts: &'a Parts, run: &Path, ui: Ui, signals: Signals) -> Self {
        let (now, config) = (Instant::now(), &parts.config);
        Self {
            parts,
            run: run.into(),
            signals,
            ui,
            display: Display::Lines,
            tensorboard: None,
            eta: Eta::new(config.train.steps, config.sample.every, config.checkpoint.every),
            begun: now,
            last_line: now,
            last_skip: None,
            no_grid: false,
            no_tensorboard: false,
            grid: None,
        }
    }

    fn say(&mut self, line: String) {
        match &mut self.display {
            Display::Lines => crate::say(line),
            Display::Bar(bar) => bar.println(line),
            Display::Screen(screen) => screen.say(line),
        }
    }

    /// Gives the terminal back, if all of it was taken.
    pub(crate) fn close(&mut self) {
        if matches!(self.display, Display::Screen(_)) {
            self.display = Display::Lines;
        }
    }

    /// How long since the last call.
    fn took(&mut self) -> Duration {
        let begun = std::mem::replace(&mut self.begun, Instant::now());
        self.begun - begun
    }

    /// What is told after a step, in two parts: how fast, and how well. Loss and drop are means; the gradient norm is the step's own,
    /// in which one that jumps can be seen.
    fn numbers(&self, step: u64, report: &StepReport, total: &Average) -> [String; 2] {
        let config = &self.parts.config;
        let speed = format!(
            "ETA {}  {:.0} img/s",
            FormattedDuration(self.eta.left(step)),
            config.train.batch_size as f64 / self.eta.seconds_a_step().max(1e-9),
        );
        let learning = format!(
            "loss {:.4}  gradient {:.3}  {} {:.2} ms ({:.1} %)  drop {:.2} %",
            total.loss_ema(),
            report.gradient_norm,
            config.coupling.kind,
            total.coupling_ms(),
            total.coupling_share_percent(),
            total.drop_percent(),
        );
        [speed, learning]
    }

    /// Writes to TensorBoard's files, if they are wanted. That they cannot be written is told once.
    fn tell_tensorboard(&mut self, write: impl FnOnce(&mut TensorBoard) -> io::Result<()>) {
        let Some(Err(error)) = self.tensorboard.as_mut().map(write) else { return };
        if !std::mem::replace(&mut self.no_tensorboard, true) {
            let folder = self.run.join(tensorboard::FOLDER);
            self.say(format!("warning: {}: {error}; training goes on without", folder.display()));
        }
    }

    /// Draws the grid of `step`.
    pub(crate) fn draw_grid(&mut self, step: u64, network: &Network) {
        let path = self.run.join(train::SAMPLES).join(format!("step-{step:08}.png"));
        let seed = self.parts.config.seed;
        let channels = out_channels(&self.parts.config, self.parts.shape[0]);
        let network = Interruptible { network, signals: &self.signals, channels };
        let drawn = self.parts.sample(&network, self.parts.config.sample.n, seed).and_then(|samples| {
            let wanted = !self.signals.received();
            if wanted { grid::save(samples.view(), &path).map(|()| true) } else { Ok(false) }
        });
        match drawn {
            Ok(true) => {
                self.tell_tensorboard(|tensorboard| tensorboard.picture(step, train::SAMPLES, &path));
                self.grid = Some(path);
            }
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
        let config = &self.parts.config;
        if config.log.tensorboard {
            self.tensorboard = Some(TensorBoard::new(&self.run.join(tensorboard::FOLDER), step));
        }
        let steps = config.train.steps;
        (self.begun, self.last_line) = (Instant::now(), Instant::now());
        if step == steps || !io::stderr().is_terminal() {
            return;
        }
        if self.ui == Ui::Tui {
            let title = format!("{}, {}", self.run.display(), config.coupling.kind);
            match Screen::open(title, step, steps) {
                Ok(screen) => self.display = Display::Screen(Box::new(screen)),
                Err(error) => crate::say(format_args!("warning: --ui tui: {error}; lines take its place")),
            }
        } else {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {prefix}\n{wide_msg}");
            let bar = ProgressBar::new(steps).with_position(step);
            self.display =
                Display::Bar(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
        }
    }

    fn step(&mut self, step: u64, report: &StepReport, total: &Average) {
        let took = self.took();
        let config = &self.parts.config;
        if self.eta.is_cold() && config.device != "flex" {
            let (device, seconds) = (&config.device, took.as_secs_f64());
            self.say(format!("the first step took {seconds:.1} s, in which {device} compiles its kernels"));
        }
        self.eta.step(took);
        let steps = config.train.steps;
        let due = self.last_line.elapsed() >= LINE || step == steps;
        if matches!(self.display, Display::Lines) && !due {
            return;
        }
        let numbers = self.numbers(step, report, total);
        match &mut self.display {
            Display::Lines => {
                self.last_line = Instant::now();
                let [speed, learning] = numbers;
                crate::say(format_args!("step {step}/{steps}  {speed}  {learning}"));
            }
            Display::Bar(bar) => {
                bar.set_position(step);
                let [speed, learning] = numbers;
                bar.set_prefix(speed);
                bar.set_message(learning);
                if step == steps {
                    bar.finish();
                }
            }
            Display::Screen(screen) => screen.step(step, total.loss_ema(), numbers),
        }
    }

    fn skipped(&mut self, step: u64, reason: &TrainError) {
        let took = self.took();
        self.eta.step(took);
        // The number of them stands in metrics.jsonl and at the end.
        if self.last_skip.is_none_or(|last| last.elapsed() >= LINE) {
            self.last_skip = Some(Instant::now());
            self.say(format!("warning: {reason}; the step is skipped"));
        }
        match &mut self.display {
            Display::Lines => {}
            Display::Bar(bar) => bar.set_position(step),
            Display::Screen(screen) => screen.passed(step),
        }
    }

    fn logged(&mut self, record: &Record) {
        self.tell_tensorboard(|tensorboard| tensorboard.scalars(record));
    }

    fn saved(&mut self, checkpoint: &Checkpoint) {
        let took = self.took();
        self.eta.checkpoint(took);
        if !matches!(self.display, Display::Bar(_)) {
            self.say(format!("saved step {}", checkpoint.step));
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
            self.took();
            self.draw_grid(step, network);
            let took = self.took();
            self.eta.grid(took);
        }
        self.begun = Instant::now();
    }
}
