//! What a person sees with `--ui tui`: the whole terminal, with the curve of the loss.

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Wrap};
use ratatui::{Frame, Terminal};
use std::io::{self, BufWriter, Stderr, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two drawings.
const EVERY: Duration = Duration::from_millis(100);
/// Points of the curve: with more, every other one is dropped.
const POINTS: usize = 2000;

/// Whether the terminal is taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back where the process ends at once. Handlers of signals may call it.
#[cfg(unix)]
pub(crate) fn leave_at_once() {
    /// The terminal's own content and its cursor: what crossterm writes as well.
    const OWN: &[u8] = b"\x1b[?1049l\x1b[?25h";
    if TAKEN.load(Ordering::Relaxed) {
        let _ = rustix::io::write(rustix::stdio::stderr(), OWN);
    }
}

/// The terminal, which gets its own content back when this is dropped, and below it what was said meanwhile.
pub(crate) struct Screen {
    // Standard error has no buffer of its own, and a drawing is hundreds of small writes.
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
    view: View,
    drawn: Option<Instant>,
}

impl Screen {
    /// Takes the terminal of standard error.
    pub(crate) fn open(title: String, step: u64, steps: u64) -> io::Result<Self> {
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(io::stderr())))?;
        TAKEN.store(true, Ordering::Relaxed);
        execute!(io::stderr(), EnterAlternateScreen, Hide)?;
        Ok(Self { terminal, view: View::new(title, step, steps), drawn: None })
    }

    pub(crate) fn step(&mut self, step: u64, loss: f64, numbers: [String; 2]) {
        self.view.step(step, loss, numbers);
        self.draw(self.drawn.is_none_or(|drawn| drawn.elapsed() >= EVERY));
    }

    /// A step that changed nothing.
    pub(crate) fn passed(&mut self, step: u64) {
        self.view.step = step;
    }

    pub(crate) fn say(&mut self, line: String) {
        self.view.said.push(line);
        self.draw(true);
    }

    fn draw(&mut self, now: bool) {
        if now {
            self.drawn = Some(Instant::now());
            // A terminal that is gone is no reason to stop training.
            let _ = self.terminal.draw(|frame| self.view.draw(frame));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut terminal = io::stderr();
        let _ = execute!(terminal, LeaveAlternateScreen, Show);
        TAKEN.store(false, Ordering::Relaxed);
        for line in &self.view.said {
            let _ = writeln!(terminal, "{line}");
        }
    }
}

/// What is on it.
struct View {
    title: String,
    step: u64,
    steps: u64,
    /// How fast, and how well.
    numbers: [String; 2],
    /// The mean loss after a step, from left to right.
    losses: Vec<(f64, f64)>,
    /// Every so many steps there is a point.
    stride: u64,
    said: Vec<String>,
}

impl View {
    fn new(title: String, step: u64, steps: u64) -> Self {
        let (numbers, losses, said) = (Default::default(), Vec::new(), Vec::new());
        Self { title, step, steps, numbers, losses, stride: 1, said }
    }

    fn step(&mut self, step: u64, loss: f64, numbers: [String; 2]) {
        (self.step, self.numbers) = (step, numbers);
        if step.is_multiple_of(self.stride) && loss.is_finite() {
            self.losses.push((step as f64, loss));
        }
        if self.losses.len() > POINTS {
            self.stride *= 2;
            self.losses.retain(|(step, _)| (*step as u64).is_multiple_of(self.stride));
        }
    }

    fn draw(&self, frame: &mut Frame) {
        let rows = [Constraint::Length(3), Constraint::Min(8), Constraint::Length(3), Constraint::Length(6)];
        let [top, middle, below, bottom] = Layout::vertical(rows).areas(frame.area());
        let [speed, learning] = &self.numbers;
        let gauge = Gauge::default()
            .block(Block::bordered().title(self.title.as_str()))
            .gauge_style(Style::new().fg(Color::Blue))
            .ratio((self.step as f64 / self.steps.max(1) as f64).clamp(0.0, 1.0))
            .label(format!("{}/{}  {speed}", self.step, self.steps));
        frame.render_widget(gauge, top);
        frame.render_widget(self.curve(), middle);
        let learning = Paragraph::new(learning.as_str()).block(Block::bordered());
        frame.render_widget(learning, below);
        let lines = usize::from(bottom.height.saturating_sub(2));
        let said = self.said[self.said.len().saturating_sub(lines)..].iter();
        let said = Paragraph::new(said.map(|line| Line::from(line.as_str())).collect::<Vec<_>>())
            .block(Block::bordered().title("Ctrl-C saves and stops"))
            .wrap(Wrap { trim: true });
        frame.render_widget(said, bottom);
    }

    fn curve(&self) -> Chart<'_> {
        let values = || self.losses.iter().map(|(_, loss)| *loss);
        let (low, high) =
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        // A curve that is flat, or that has no points yet, has a range as well.
        let (low, high) = if low < high { (low, high) } else { (low.min(1.0) - 0.5, low.min(1.0) + 0.5) };
        let first = self.losses.first().map_or(0.0, |(step, _)| *step);
        let last = self.losses.last().map_or(1.0, |(step, _)| *step).max(first + 1.0);
        let curve = Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::new().fg(Color::Blue))
            .data(&self.losses);
        let axis = |range: [f64; 2], labels: [String; 2]| Axis::default().bounds(range).labels(labels);
        Chart::new(vec![curve])
            .block(Block::bordered().title("loss"))
            .x_axis(axis([first, last], [format!("{first:.0}"), format!("{last:.0}")]))
            .y_axis(axis([low, high], [format!("{low:.4}"), format!("{high:.4}")]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let rows = terminal.backend().buffer().content().chunks(usize::from(width));
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
    }

    #[test]
    fn it_shows_how_far_how_well_and_what_was_said() {
        let mut view = View::new("digits, window".into(), 0, 400);
        let begin = drawn(&view, 80, 24);
        assert!(begin.contains("digits, window") && begin.contains("0/400"), "{begin}");
        for step in 1..=100 {
            view.step(step, 1.0 / step as f64, ["ETA 3m".into(), "drop 3.24 %".into()]);
        }
        view.said.extend((0..9).map(|k| format!("warning {k}")));
        let screen = drawn(&view, 80, 24);
        for part in ["100/400  ETA 3m", "drop 3.24 %", "0.0100", "1.0000", "warning 8", "Ctrl-C"] {
            assert!(screen.contains(part), "{part}: {screen}");
        }
        assert!(!screen.contains("warning 3"), "only the last ones have room: {screen}");
        let points = |row: &str| row.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count();
        let row = |label: &str| screen.lines().find(|row| row.contains(label)).map(points);
        assert_eq!(row("1.0000"), Some(1), "it begins at the top: {screen}");
        assert!(row("0.0100") > Some(40), "most of it is near the smallest loss: {screen}");
        drawn(&view, 3, 2);
    }

    #[test]
    fn a_long_curve_keeps_its_first_point_and_few_others() {
        let mut view = View::new(String::new(), 0, 100_000);
        for step in 0..100_000 {
            view.step(step, if step % 7 == 0 { f64::NAN } else { 1.0 }, Default::default());
        }
        assert!((POINTS / 2..=POINTS).contains(&view.losses.len()), "{}", view.losses.len());
        assert!(
            view.losses.is_sorted_by(|a, b| a.0 < b.0) && view.losses.iter().all(|(_, loss)| *loss == 1.0)
        );
        drawn(&view, 80, 24);
    }
}
