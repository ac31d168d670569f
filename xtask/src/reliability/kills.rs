use super::report::Line;
use super::subject::{Chance, Subject};
use std::thread::{scope, sleep};

/// Runs at the same time, so that the machine is busy.
const LANES: u64 = 4;

#[derive(Default)]
struct Found {
    kills: u64,
    runs: u64,
    lost: u64,
    repairs: u64,
    different: u64,
    resumed: u64,
    notes: Vec<String>,
}

/// `kill -9` at any time between the start of the process and its end, again and again until the run is complete.
pub(super) fn run(subject: &Subject, kills: u64) -> Result<Vec<Line>, String> {
    let lanes: Vec<Result<Found, String>> = scope(|scope| {
        let lanes = (0..LANES).map(|lane| {
            let share = (kills + lane) / LANES;
            scope.spawn(move || one_lane(subject, lane, share))
        });
        // All of them are started before the first is waited for.
        let lanes: Vec<_> = lanes.collect();
        let ended = lanes.into_iter().map(|lane| lane.join());
        ended.map(|found| found.unwrap_or_else(|_| Err("a lane panicked".into()))).collect()
    });
    let mut all = Found::default();
    for found in lanes {
        let Found { kills, runs, lost, repairs, different, resumed, notes } = found?;
        all.kills += kills;
        all.runs += runs;
        all.lost += lost;
        all.repairs += repairs;
        all.different += different;
        all.resumed += resumed;
        all.notes.extend(notes);
    }
    let Found { kills, runs, lost, repairs, different, resumed, notes } = all;
    Ok(vec![
        Line::count(format!("checkpoints lost after {kills} kill -9"), lost, 0)
            .with(format!("{resumed} starts went on from a checkpoint; {LANES} runs at the same time")),
        Line::count("repairs by hand needed before a next start".into(), repairs, 0),
        Line::count(
            format!("of {runs} killed runs: not bit-equal to the undisturbed one in the end"),
            different,
            0,
        ),
        Line::count("complaints about damaged files".into(), notes.len() as u64, 0).with(notes.join("; ")),
    ])
}

fn one_lane(subject: &Subject, lane: u64, kills: u64) -> Result<Found, String> {
    let run = format!("killed-{lane}");
    let mut chance = Chance::new(subject.seed, 10 + lane);
    let mut found = Found::default();
    while found.kills < kills {
        subject.remove(&run)?;
        let mut announced = 0;
        loop {
            let mut child = subject.start(&run, &[])?;
            let killed = found.kills < kills && {
                sleep(chance.up_to(subject.whole));
                let running = child.try_wait().map_err(|error| error.to_string())?.is_none();
                running && child.kill().is_ok()
            };
            let ended = subject.wait(&run, child)?;
            // Where it ends before it says anything, nothing is known of what it would have gone on from.
            let began = ended.said.contains("going on from") || !ended.numbers("saved step ").is_empty();
            if began && ended.from() < announced {
                found.lost += 1;
                found.notes.push(format!("step {announced} was saved, and it went on from {}", ended.from()));
            }
            found.resumed += u64::from(ended.from() > 0);
            found.notes.extend(ended.complaint().map(String::from));
            announced = ended.numbers("saved step ").last().copied().unwrap_or(announced);
            // It may have ended by itself in the meantime.
            if killed && ended.status.code().is_none() {
                found.kills += 1;
                if found.kills.is_multiple_of(50) {
                    println!("  {run}: {} kills", found.kills);
                }
                continue;
            }
            if ended.status.success() {
                found.runs += 1;
                if let Some(name) = subject.difference(&subject.runs().join(&run))? {
                    found.different += 1;
                    found.notes.push(format!("{name} differs after kills"));
                }
            } else {
                found.repairs += 1;
                found.notes.push(format!("it does not start again: {}", ended.said));
            }
            break;
        }
    }
    subject.remove(&run)?;
    Ok(found)
}
