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
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = control_group(Path::new("/sys/fs/cgroup"), &groups);
    [machine, group].into_iter().flatten().min()
}

/// What the limits of the control groups below `root` leave: of version 2 the process's own group (its line
/// `0::/…` of `groups`) and each one around it, of version 1 the memory controller's.
fn control_group(root: &Path, groups: &str) -> Option<u64> {
    let read = |path: &Path| -> Option<u64> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok() // "max" is no number: no limit
    };
    let left = |dir: &Path, limit: &str, used: &str| {
        Some(read(&dir.join(limit))?.saturating_sub(read(&dir.join(used))?))
    };
    let of = |prefix: &str| {
        let path = groups.lines().find_map(|line| line.split_once(prefix)).map_or("", |(_, p)| p);
        path.trim_matches('/').to_owned()
    };
    let (two, one) = (root.join(of("0::")), root.join("memory").join(of(":memory:")));
    let two = two.ancestors().take_while(|dir| dir.starts_with(root));
    let one = one.ancestors().take_while(|dir| dir.starts_with(root));
    two.filter_map(|dir| left(dir, "memory.max", "memory.current"))
        .chain(one.filter_map(|d| left(d, "memory.limit_in_bytes", "memory.usage_in_bytes")))
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
        let overflowing = MemoryEstimate { weights: u64::MAX, ..needed };
        assert!(compare(&overflowing, 7 << 30).is_err());
    }

    /// Both versions of control groups, as a container shows them.
    #[test]
    fn the_tightest_control_group_counts() {
        let root = std::env::temp_dir().join(format!("handloom-cgroup-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(control_group(&root, "0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "100\n");
        assert_eq!(control_group(&root, "0::/a/b\n"), None);
        write("a/memory.max", "5000\n");
        write("a/memory.current", "1000\n");
        assert_eq!(control_group(&root, "0::/a/b\n"), Some(4000));
        assert_eq!(control_group(&root, "0::/other\n"), None);
        write("a/b/memory.max", "300\n");
        assert_eq!(control_group(&root, "0::/a/b\n"), Some(200));
        write("a/b/memory.current", "301\n");
        assert_eq!(control_group(&root, "0::/a/b\n"), Some(0), "over the limit is no underflow");
        write("memory/job/memory.limit_in_bytes", "70\n");
        write("memory/job/memory.usage_in_bytes", "30\n");
        let groups = "5:cpu:/x\n4:memory:/job\n";
        assert_eq!(control_group(&root, groups), Some(40));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
