use super::report::Line;
use super::subject::{Chance, Subject};
use std::thread::sleep;

/// `kill -9` at any time between the start of the process and its end, again and again until the run is complete.
pub(super) fn run(subject: &Subject, kills: u64) -> Result<Vec<Line>, String> {
    let mut chance = Chance::new(subject.seed, 1);
    let (mut done, mut runs, mut lost, mut repairs, mut different, mut resumed) = (0, 0, 0, 0, 0, 0);
    let mut notes = Vec::new();
    while done < kills {
        subject.remove("killed")?;
        let mut announced = 0;
        loop {
            let mut child = subject.start("killed", &[])?;
            let killed = done < kills && {
                sleep(chance.up_to(subject.whole));
                let running = child.try_wait().map_err(|error| error.to_string())?.is_none();
                running && child.kill().is_ok()
            };
            let ended = subject.wait("killed", child)?;
            // Where it ends before it says anything, nothing is known of what it would have gone on from.
            let began = ended.said.contains("going on from") || !ended.numbers("saved step ").is_empty();
            if began && ended.from() < announced {
                lost += 1;
                notes.push(format!("step {announced} was saved, and it went on from {}", ended.from()));
            }
            resumed += u64::from(ended.from() > 0);
            notes.extend(ended.complaint().map(String::from));
            announced = ended.numbers("saved step ").last().copied().unwrap_or(announced);
            if killed {
                done += 1;
                if done % 100 == 0 {
                    println!("  {done} kills");
                }
                continue;
            }
            if ended.status.success() {
                runs += 1;
                if let Some(name) = subject.difference(&subject.runs().join("killed"))? {
                    different += 1;
                    notes.push(format!("{name} differs after kills"));
                }
            } else {
                repairs += 1;
                notes.push(format!("it does not start again: {}", ended.said));
            }
            break;
        }
    }
    Ok(vec![
        Line::count(format!("checkpoints lost after {done} kill -9"), lost, 0)
            .with(format!("{resumed} starts went on from a checkpoint")),
        Line::count("repairs by hand needed before a next start".into(), repairs, 0),
        Line::count(
            format!("of {runs} killed runs: not bit-equal to the undisturbed one in the end"),
            different,
            0,
        ),
        Line::count("complaints about damaged files".into(), notes.len() as u64, 0).with(notes.join("; ")),
    ])
}
