use super::report::Line;
use super::subject::Subject;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Memory in KiB and open files of a process.
fn look(process: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let memory = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some((memory, fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as f64))
}

/// One long run, watched. Compared are its second fifth and its last: the first is for caches and pools to fill.
pub(super) fn run(subject: &Subject, steps: u64) -> Result<Vec<Line>, String> {
    subject.remove("long")?;
    let steps_setting = format!("train.steps={steps}");
    let settings = [&*steps_setting, "checkpoint.every=50", "sample.every=1000"];
    let mut child = subject.start("long", &settings)?;
    let mut seen = Vec::new();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        seen.extend(look(child.id()));
        sleep(Duration::from_millis(20));
    }
    let ended = subject.wait("long", child)?;
    if !ended.status.success() {
        return Err(format!("the long run ends with {}: {}", ended.status, ended.said));
    }
    // What it does after the last step is not training.
    let trained = &seen[..seen.len() * 49 / 50];
    let fifth = (trained.len() / 5).max(1);
    let (early, late) = (&trained[fifth..2 * fifth], &trained[trained.len() - fifth..]);
    let mean = |part: &[(f64, f64)]| part.iter().map(|(memory, _)| memory).sum::<f64>() / part.len() as f64;
    let files = |part: &[(f64, f64)]| part.iter().map(|(_, files)| *files).fold(0.0, f64::max);
    let growth = 100.0 * (mean(late) / mean(early) - 1.0);
    Ok(vec![
        Line::limit(format!("growth of the memory over {steps} steps, %"), growth, 2.0).with(format!(
            "{:.1} MB in the second fifth, {:.1} MB in the last, {} looks",
            mean(early) / 1024.0,
            mean(late) / 1024.0,
            seen.len()
        )),
        Line::limit("more open files at the end, at most".into(), files(late) - files(early), 0.0)
            .with(format!("at most {} at once", files(trained))),
    ])
}
