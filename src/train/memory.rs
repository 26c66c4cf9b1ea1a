//! Is there room? Asked before a run starts, because the system's answer to a run that does not fit is to kill
//! it hours later.

use std::path::Path;

use crate::error::{Error, Result};
use crate::models::MemoryEstimate;

/// Bytes that this process can still take: what the machine has free, or what the control group it runs in
/// leaves, whichever is less. `None` where the system does not say.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = text.and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    [machine, control_group()].into_iter().flatten().min()
}

/// What the limit of the control group (version 2, else 1) leaves.
fn control_group() -> Option<u64> {
    let read = |path: &Path| -> Option<u64> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok() // "max" is no number: no limit
    };
    let root = Path::new("/sys/fs/cgroup");
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let own = root.join(own.trim_start_matches('/'));
    let version1 = root.join("memory");
    [
        (own.join("memory.max"), own.join("memory.current")),
        (root.join("memory.max"), root.join("memory.current")),
        (version1.join("memory.limit_in_bytes"), version1.join("memory.usage_in_bytes")),
    ]
    .into_iter()
    .filter_map(|(limit, used)| Some(read(&limit)?.saturating_sub(read(&used)?)))
    .min()
}

/// Refuses a run that needs more than there is.
///
/// # Errors
/// [`Error::Usage`] with both figures and what to lower.
pub fn check(needed: &MemoryEstimate) -> Result<()> {
    match available() {
        Some(available) => compare(needed, available),
        None => Ok(()),
    }
}

fn compare(needed: &MemoryEstimate, available: u64) -> Result<()> {
    if needed.total() <= available {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    Err(Error::Usage(format!(
        "training this model takes about {:.1} GiB (weights {:.1}, gradients {:.1}, optimiser {:.1}, \
         activations {:.1}) and {:.1} GiB are free; choose a smaller --size, --batch-size or \
         --context-length",
        gib(needed.total()),
        gib(needed.weights),
        gib(needed.gradients),
        gib(needed.optimizer),
        gib(needed.activations),
        gib(available)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        let needed = MemoryEstimate { weights: 3 << 30, gradients: 3 << 30, ..Default::default() };
        assert!(compare(&needed, 7 << 30).is_ok());
        let error = compare(&needed, 5 << 30).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("6.0 GiB") && error.to_string().contains("5.0 GiB"),
            "{error}"
        );
        if cfg!(target_os = "linux") {
            assert!(available().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
