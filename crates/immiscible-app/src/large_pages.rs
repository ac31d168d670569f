//! Large pages under tensors, where the C library is glibc.

/// What glibc reads when a program starts.
pub(crate) const VARIABLE: &str = "GLIBC_TUNABLES";

/// Starts the command anew with glibc told to ask Linux for large pages, and to keep what it has: every operation of a network on
/// the CPU allocates its output, and else many of them wait for thousands of pages that the system clears one by one. glibc
/// reads this when a program starts, so that nothing else helps; whoever sets `GLIBC_TUNABLES` has decided already.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn ask_for() {
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;

    /// That this was done, also where the system keeps [`VARIABLE`] from the program.
    const DONE: &str = "IMMISCIBLE_LARGE_PAGES";
    /// Blocks below 1 GiB come from memory that is kept until 4 GiB at its end are free. Of the one arena, because those that other
    /// threads have give their memory back as soon as it is free.
    const TUNABLES: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:\
                            glibc.malloc.trim_threshold=4294967296:glibc.malloc.arena_max=1";
    if [VARIABLE, DONE].into_iter().any(|variable| std::env::var_os(variable).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    // Another name is that of a loader which runs the program.
    if let (Ok(this), Some(name)) = (std::env::current_exe(), arguments.next())
        && this.file_name() == Path::new(&name).file_name()
    {
        let mut anew = Command::new(this);
        anew.arg0(name).args(arguments).env(VARIABLE, TUNABLES).env(DONE, "1");
        // Only returns where the program is not there any more; then it goes on as it is.
        let _ = anew.exec();
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn ask_for() {}
