//! The roofs of this machine, measured: multiply-adds a second and bytes a second.
//!
//! # How
//!
//! A *pass* is a probe of [`crate::cpu::roof`] that runs on every thread at once, some 0.3 ms long; its
//! time is that of the slowest thread. A roof is the best of many passes, since other programs can only
//! make a pass slower. That best is taken several times, and how far these differ is the *spread*.
//! Where it is more than 3 % the machine is not quiet enough to say "x % of the roof" about anything,
//! and nothing is said.
//!
//! # Which roof binds
//!
//! Arithmetic binds where F / peak is the longer time. Else memory does, and which level depends on the
//! *footprint* f, the bytes that are touched at all. Work that goes over f bytes again and again finds
//! at most the share C / f of them in a cache of C bytes, however clever the cache. So a byte takes
//!
//! ```text
//! Σ over levels of  (share that level can hold) / (bandwidth of that level)
//! ```
//!
//! where the first level holds its own size, the next what is beyond that, and memory the rest. The
//! bandwidth of a level is measured for reading, copying and writing; work that does both has a time
//! between them, in proportion.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use super::Cost;
use super::effort::Effort;
use crate::cpu::gemm::{self, Precision};
use crate::cpu::roof;
use crate::cpu::simd::{Level, available_levels, dot_bf16, level};
use crate::tensor::{DType, Tensor, release_free_memory};
use crate::train::control::in_pool;

/// How far measurements of one roof may lie apart before shares of it mean nothing.
pub const NOISE: f64 = 0.03;

/// A pass of a probe takes about this long on each thread, in seconds.
const PASS: f64 = 3e-4;

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// f32 multiply-adds in registers.
    Fma,
    /// bf16 products summed in f32, in registers.
    DotBf16,
    /// Reads.
    Read,
    /// Copies; both sides count.
    Copy,
    /// Writes.
    Write,
}

/// A level of the memory: its name, its bytes for one thread, whether each thread has its own, and
/// how many bytes a probe of it goes over (for one thread, or for all together).
#[derive(Clone, Debug, PartialEq)]
struct MemoryLevel {
    name: &'static str,
    size: usize,
    private: bool,
    probe: usize,
}

/// One measured roof.
#[derive(Clone, Debug, PartialEq)]
pub struct Roof {
    /// What was done.
    pub kind: Kind,
    /// `avx512`, `avx2`, … for arithmetic; `L1`, `L2`, `L3` or `DRAM` for memory.
    pub place: &'static str,
    /// On how many threads.
    pub threads: usize,
    /// Floating-point operations or bytes a second, the best there was.
    pub rate: f64,
    /// How far repeated measurements lie apart, relative to the best.
    pub spread: f64,
}

impl Roof {
    /// `roof_fma`, `roof_read`, …
    pub fn op(&self) -> &'static str {
        match self.kind {
            Kind::Fma => "roof_fma",
            Kind::DotBf16 => "roof_dot_bf16",
            Kind::Read => "roof_read",
            Kind::Copy => "roof_copy",
            Kind::Write => "roof_write",
        }
    }

    /// The row of `--json`.
    pub fn json(&self) -> Value {
        let flops = matches!(self.kind, Kind::Fma | Kind::DotBf16);
        let dtype = if self.kind == Kind::DotBf16 { "bf16" } else { "f32" };
        json!({
            "op": self.op(), "shape": self.place, "dtype": dtype, "threads": self.threads,
            "median_s": null,
            "gflops": flops.then_some(self.rate / 1e9),
            "gbs": (!flops).then_some(self.rate / 1e9),
            "tokens_per_s": null,
            "spread": self.spread,
        })
    }
}

/// All roofs, on one thread and on all of the pool.
#[derive(Clone, Debug)]
pub struct Roofs {
    /// Every one that was measured.
    pub list: Vec<Roof>,
    /// The largest spread among those that bind: of the instruction set in force, on all threads.
    pub spread: f64,
    levels: Vec<MemoryLevel>,
    threads: usize,
}

/// The least time that some work can take here, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Seconds.
    pub seconds: f64,
    /// The roof that binds: `FMA`, `L1`, `L2`, `L3` or `DRAM`.
    pub bound: String,
    /// Whether that is arithmetic.
    pub computes: bool,
    /// Whether the roofs are steady enough to be spoken of.
    pub trusted: bool,
}

impl Roofs {
    /// Measures them on one thread and on all threads of the pool this is called in.
    pub fn measure(effort: Effort) -> Roofs {
        let threads = rayon::current_num_threads();
        let levels = memory_levels(threads, effort);
        let mut list = measure_here(&levels, effort);
        if threads > 1 {
            // A pool of one; without threads at all there is nothing to add.
            list.extend(in_pool(1, || measure_here(&levels, effort)).unwrap_or_default());
        }
        let in_force = level().name();
        let binds = |roof: &&Roof| {
            roof.threads == threads && (roof.kind != Kind::Fma || roof.place == in_force)
        };
        let spread = list.iter().filter(binds).map(|roof| roof.spread).fold(0.0, f64::max);
        Roofs { list, spread, levels, threads }
    }

    /// No roofs: nothing is said about shares of them.
    pub fn unmeasured() -> Roofs {
        let threads = rayon::current_num_threads();
        Roofs { list: Vec::new(), spread: f64::INFINITY, levels: Vec::new(), threads }
    }

    /// Whether shares of these roofs mean something.
    pub fn steady(&self) -> bool {
        self.spread <= NOISE
    }

    /// A roof by what and where.
    pub fn find(&self, kind: Kind, place: &str, threads: usize) -> Option<&Roof> {
        self.list.iter().find(|r| r.kind == kind && r.place == place && r.threads == threads)
    }

    /// The most floating-point operations a second in products of f32 computed as `precision` says.
    pub fn peak(&self, precision: Precision, threads: usize) -> f64 {
        let fma = self.find(Kind::Fma, level().name(), threads).map_or(f64::INFINITY, |r| r.rate);
        let dot = |place| self.find(Kind::DotBf16, place, threads).map_or(0.0, |r| r.rate);
        match (level(), precision) {
            (Level::Amx, Precision::Medium) => fma.max(dot("amx")),
            (Level::Amx, Precision::High) => fma.max(dot("amx") / gemm::PRODUCTS_OF_HIGH as f64),
            (Level::Avx512, Precision::Medium) => fma.max(dot("avx512")),
            _ => fma,
        }
    }

    /// Bytes a second of traffic of which the share `writes` is written, from one level.
    fn bandwidth(&self, place: &str, writes: f64, threads: usize) -> f64 {
        let slowness =
            |kind| self.find(kind, place, threads).map_or(0.0, |roof: &Roof| 1.0 / roof.rate);
        let (read, copy, write) =
            (slowness(Kind::Read), slowness(Kind::Copy), slowness(Kind::Write));
        // Half of a copy's traffic is written.
        1.0 / if writes <= 0.5 {
            read + (copy - read) * writes / 0.5
        } else {
            copy + (write - copy) * (writes - 0.5) / 0.5
        }
    }

    /// The names of the memory levels, from the nearest on.
    pub fn places(&self) -> impl Iterator<Item = &'static str> {
        self.levels.iter().map(|level| level.name)
    }

    /// The least time for `cost`.
    pub fn limit(&self, cost: &Cost, precision: Precision, threads: usize) -> Limit {
        // Work on fewer threads than all was not measured apart, except on one.
        let threads = if threads == 1 { 1 } else { self.threads };
        let arithmetic = cost.flops / self.peak(precision, threads);
        let bytes = cost.reads + cost.writes;
        let writes = if bytes > 0.0 { cost.writes / bytes } else { 0.0 };
        let (slowness, place) = self.slowness(cost.footprint, writes, threads);
        let memory = bytes * slowness;
        let computes = arithmetic >= memory;
        Limit {
            seconds: arithmetic.max(memory),
            bound: if computes { "FMA".into() } else { place.into() },
            computes,
            trusted: self.steady(),
        }
    }

    /// Seconds a byte of traffic takes at least, of which the share `writes` is written, in work over
    /// `footprint` bytes; and the level that most of them are spent in.
    fn slowness(&self, footprint: f64, writes: f64, threads: usize) -> (f64, &'static str) {
        let footprint = footprint.max(1.0);
        let (mut held, mut sum, mut longest, mut place) = (0.0, 0.0, 0.0, "DRAM");
        for level in &self.levels {
            let copies = if level.private { threads } else { 1 };
            let room = (level.size as f64 * copies as f64).min(footprint).max(held);
            let time = (room - held) / footprint / self.bandwidth(level.name, writes, threads);
            sum += time;
            held = room;
            if time > longest {
                (longest, place) = (time, level.name);
            }
        }
        (sum, place)
    }

    /// Bytes a second of copies over `footprint` bytes, at most, on all threads.
    pub fn copies(&self, footprint: f64) -> f64 {
        1.0 / self.slowness(footprint, 0.5, self.threads).0
    }

    /// A piece of fixed work of the kind that binds, to run beside each sample: what two runs of the
    /// bench, days apart, have in common.
    pub fn yardstick(&self, limit: &Limit) -> Yardstick {
        let level = self.levels.iter().find(|level| !limit.computes && level.name == limit.bound);
        Yardstick(match level {
            Some(level) => Probe::new(Kind::Copy, level),
            None => Probe::arithmetic(Kind::Fma, crate::cpu::simd::level()),
        })
    }
}

/// See [`Roofs::yardstick`].
pub struct Yardstick(Probe);

impl Yardstick {
    /// Runs it once: seconds.
    pub fn pass(&mut self) -> f64 {
        self.0.pass()
    }
}

/// Every roof on the threads of this pool.
fn measure_here(levels: &[MemoryLevel], effort: Effort) -> Vec<Roof> {
    let threads = rayon::current_num_threads();
    let mut list = Vec::new();
    for isa in available_levels() {
        list.push(best(Probe::arithmetic(Kind::Fma, isa), isa.name(), threads, effort));
    }
    if dot_bf16::available() {
        list.push(best(Probe::arithmetic(Kind::DotBf16, Level::Avx512), "avx512", threads, effort));
    }
    if available_levels().contains(&Level::Amx) {
        list.push(best(Probe::arithmetic(Kind::DotBf16, Level::Amx), "amx", threads, effort));
    }
    for level in levels {
        for kind in [Kind::Read, Kind::Copy, Kind::Write] {
            list.push(best(Probe::new(kind, level), level.name, threads, effort));
        }
        release_free_memory();
    }
    list
}

/// The best passes of a probe, several times over.
fn best(mut probe: Probe, place: &'static str, threads: usize, effort: Effort) -> Roof {
    probe.pass();
    let window = effort.seconds / 10.0;
    let rates: Vec<f64> = (0..effort.repeats.max(1))
        .map(|_| {
            let start = Instant::now();
            let mut least = probe.pass();
            while start.elapsed().as_secs_f64() < window {
                // In the caches the vector's loop is faster, in memory the system's, which may
                // write around them. The best pass counts, whose ever it is.
                probe.system = !probe.system;
                least = least.min(probe.pass());
            }
            probe.amount() / least
        })
        .collect();
    let high = rates.iter().copied().fold(0.0, f64::max);
    let low = rates.iter().copied().fold(f64::INFINITY, f64::min);
    Roof { kind: probe.kind, place, threads, rate: high, spread: (high - low) / high }
}

/// A probe with its buffers, one pair a thread.
struct Probe {
    kind: Kind,
    isa: Level,
    buffers: Vec<Mutex<(Tensor, Tensor)>>,
    /// How often each thread repeats it in a pass.
    rounds: usize,
    /// Flops or bytes of one round on one thread.
    round: f64,
    /// Copies and writes by the system's own loops rather than ours.
    system: bool,
}

impl Probe {
    fn arithmetic(kind: Kind, isa: Level) -> Probe {
        Probe { kind, isa, buffers: Vec::new(), rounds: 1, round: 0.0, system: false }.calibrated()
    }

    fn new(kind: Kind, level: &MemoryLevel) -> Probe {
        let threads = rayon::current_num_threads();
        let bytes = if level.private { level.probe } else { level.probe / threads };
        // Whole turns of the probes' loops. A copy has its bytes on two sides.
        let elements = (bytes / 4 / if kind == Kind::Copy { 2 } else { 1 }).next_multiple_of(128);
        let buffer = |n: usize| Tensor::ones(n, DType::F32).expect("memory for a probe");
        let second = if kind == Kind::Copy { elements } else { 0 };
        let pair = |_| Mutex::new((buffer(elements), buffer(second)));
        let round = 4.0 * (elements + second) as f64;
        let buffers = (0..threads).map(pair).collect();
        Probe { kind, isa: crate::cpu::simd::level(), buffers, rounds: 1, round, system: false }
            .calibrated()
    }

    /// Sets the rounds so that a pass takes about [`PASS`].
    fn calibrated(mut self) -> Probe {
        self.pass();
        while self.rounds < 1 << 24 {
            let time = self.pass();
            if time >= PASS / 2.0 {
                break;
            }
            self.rounds = (self.rounds as f64 * (PASS / time.max(1e-7)).clamp(2.0, 100.0)) as usize;
        }
        self
    }

    /// Flops or bytes of a pass.
    fn amount(&self) -> f64 {
        self.rounds as f64 * self.round * rayon::current_num_threads() as f64
    }

    /// Runs on every thread of the pool at once: the time of the slowest. The threads wait for each
    /// other, so only one pass may run in a pool at a time.
    fn pass(&mut self) -> f64 {
        let waiting = AtomicUsize::new(rayon::current_num_threads());
        let results = rayon::broadcast(|context| {
            let mut buffers = self.buffers.get(context.index()).map(|b| b.lock());
            let buffers = buffers.as_mut().and_then(|b| b.as_deref_mut().ok());
            // All begin together.
            waiting.fetch_sub(1, Ordering::AcqRel);
            while waiting.load(Ordering::Acquire) > 0 {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            let flops = self.run(buffers);
            (start.elapsed().as_secs_f64(), flops)
        });
        if self.buffers.is_empty() {
            self.round = results[0].1 / self.rounds as f64;
        }
        results.iter().map(|result| result.0).fold(0.0, f64::max)
    }

    /// The rounds of one thread; the flops done.
    fn run(&self, buffers: Option<&mut (Tensor, Tensor)>) -> f64 {
        let Some((a, b)) = buffers else {
            return match self.kind {
                Kind::DotBf16 => roof::multiply_adds_bf16_at(self.isa, self.rounds).unwrap_or(0.0),
                _ => roof::multiply_adds_at(self.isa, self.rounds),
            };
        };
        let unique = "a probe's buffer has one owner";
        for _ in 0..self.rounds {
            match self.kind {
                Kind::Read => {
                    std::hint::black_box(roof::read(a.as_slice().expect(unique)));
                }
                Kind::Copy => {
                    let (dst, src) = (b.make_mut().expect(unique), a.as_slice().expect(unique));
                    if self.system { dst.copy_from_slice(src) } else { roof::copy(dst, src) }
                }
                _ => {
                    let dst = a.make_mut().expect(unique);
                    if self.system { dst.fill(0.0) } else { roof::fill(dst, 1.0) }
                }
            }
        }
        0.0
    }
}

/// The levels of the memory and how large a probe of each is.
fn memory_levels(threads: usize, effort: Effort) -> Vec<MemoryLevel> {
    let sizes = cache_sizes();
    let mut levels = Vec::new();
    let names = ["L1", "L2", "L3"];
    let mut below = 0;
    for (i, &size) in sizes.iter().enumerate() {
        let private = i < 2;
        // Well inside this level, and well outside of the one below.
        let probe = if private { size / 2 } else { (size / 2).max(2 * below * threads) };
        levels.push(MemoryLevel { name: names[i.min(2)], size, private, probe });
        below = size;
    }
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let tiny = effort.seconds == 0.0;
    // Four times the last cache, within half a gigabyte.
    let probe = if tiny { 8 << 20 } else { (4 * largest).clamp(64 << 20, 512 << 20) };
    levels.push(MemoryLevel { name: "DRAM", size: usize::MAX / 1024, private: false, probe });
    levels
}

/// The sizes of the data caches in bytes, the nearest first; what most machines have where the system
/// does not say.
fn cache_sizes() -> Vec<usize> {
    let mut sizes = Vec::new();
    for i in 0..8 {
        let field = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{name}");
            std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
        };
        let Some(size) = field("size") else { continue };
        if field("type").is_some_and(|kind| kind == "Instruction") {
            continue;
        }
        let (digits, unit) =
            size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
        let unit = match unit {
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => 1,
        };
        sizes.extend(digits.parse::<usize>().ok().map(|n| n * unit));
    }
    sizes.sort_unstable();
    sizes.truncate(3);
    if sizes.is_empty() { vec![32 << 10, 512 << 10, 8 << 20] } else { sizes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roofs() -> Roofs {
        let levels = vec![
            MemoryLevel { name: "L1", size: 1000, private: true, probe: 0 },
            MemoryLevel { name: "DRAM", size: usize::MAX / 1024, private: false, probe: 0 },
        ];
        let roof = |kind, place, rate| Roof { kind, place, threads: 2, rate, spread: 0.0 };
        let mut list = vec![roof(Kind::Fma, level().name(), 1e9)];
        for (place, rate) in [("L1", 100.0), ("DRAM", 10.0)] {
            list.push(roof(Kind::Read, place, 2.0 * rate));
            list.push(roof(Kind::Copy, place, rate));
            list.push(roof(Kind::Write, place, rate / 2.0));
        }
        Roofs { list, spread: 0.0, levels, threads: 2 }
    }

    #[test]
    fn the_longer_time_binds() {
        let roofs = roofs();
        let limit = roofs.limit(&Cost::flops(1e9, 100.0, 0.0), Precision::Highest, 2);
        assert_eq!((limit.seconds, limit.bound.as_str()), (1.0, "FMA"));
        let limit = roofs.limit(&Cost::flops(1.0, 400.0, 0.0), Precision::Highest, 2);
        assert_eq!((limit.seconds, limit.bound.as_str()), (2.0, "L1"));
        // Two thousand of four thousand bytes are in the caches of two threads.
        let limit = roofs.limit(&Cost::bytes(2000.0, 2000.0, 4000.0), Precision::Highest, 2);
        assert_eq!((limit.seconds, limit.bound.as_str()), (20.0 + 200.0, "DRAM"));
    }

    #[test]
    fn traffic_between_the_probes_has_a_time_between() {
        let roofs = roofs();
        let rate = |share| roofs.bandwidth("L1", share, 2);
        assert!((rate(0.0) - 200.0).abs() < 1e-9 && (rate(0.5) - 100.0).abs() < 1e-9);
        assert!((rate(1.0) - 50.0).abs() < 1e-9);
        assert!(rate(0.25) < 200.0 && rate(0.25) > 100.0);
    }

    #[test]
    fn this_machine_has_roofs() {
        let roofs = in_pool(2, || Roofs::measure(Effort::tiny())).unwrap();
        assert!(roofs.list.iter().all(|r| r.rate.is_finite() && r.rate > 0.0), "{:?}", roofs.list);
        assert!(roofs.peak(Precision::Highest, 2) > 1e8);
        assert!(roofs.places().count() >= 2);
    }
}
