use super::report::Line;
use super::subject::{Chance, Subject};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

const TERMINATED: i32 = 143;

/// SIGTERM at any time. While it sets up it ends at once; while it trains it saves first and the next start goes on from
/// exactly there.
pub(super) fn run(subject: &Subject, signals: u64) -> Result<Vec<Line>, String> {
    let mut chance = Chance::new(subject.seed, 2);
    let (mut done, mut saved, mut at_once, mut wrong, mut different) = (0, 0, 0, 0, 0);
    let mut slowest = Duration::ZERO;
    let mut notes = Vec::new();
    while done < signals {
        subject.remove("stopped")?;
        let mut stopped_at = None;
        loop {
            let mut child = subject.start("stopped", &[])?;
            let mut sent = false;
            if done < signals {
                sleep(chance.up_to(subject.whole));
                if child.try_wait().map_err(|error| error.to_string())?.is_none() {
                    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
                    sent = kill.is_ok_and(|status| status.success());
                }
            }
            let begin = Instant::now();
            let ended = subject.wait("stopped", child)?;
            let began = ended.said.contains("going on from") || !ended.numbers("saved step ").is_empty();
            if let Some(step) = stopped_at.filter(|step| began && ended.from() < *step) {
                wrong += 1;
                notes.push(format!("it stopped at step {step} and went on from {}", ended.from()));
            }
            if sent {
                done += 1;
                slowest = slowest.max(begin.elapsed());
            }
            let stopped = ended.numbers("stopped at step ").first().copied();
            match ended.status.code() {
                Some(TERMINATED) if stopped.is_some() => (saved, stopped_at) = (saved + 1, stopped),
                // After the last step there is nothing to save, and before the first nothing to lose.
                Some(TERMINATED) | None => at_once += 1,
                Some(0) => {
                    if let Some(name) = subject.difference(&subject.runs().join("stopped"))? {
                        different += 1;
                        notes.push(format!("{name} differs after signals"));
                    }
                    break;
                }
                _ => {
                    wrong += 1;
                    notes.push(format!("{}: {}", ended.status, ended.said));
                    break;
                }
            }
        }
    }
    Ok(vec![
        Line::count(format!("wrong ends or beginnings after {done} SIGTERM"), wrong, 0)
            .with(format!("{saved} while it trained, with a checkpoint; {at_once} before or after"))
            .with(notes.join("; ")),
        Line::count("runs that were stopped until they were complete: not bit-equal".into(), different, 0),
        Line::limit("seconds from a SIGTERM to the end, at most".into(), slowest.as_secs_f64(), 10.0),
    ])
}
