//! criterion over the list of `handloom bench`: one group for each of its groups, throughput set.
//!
//! ```text
//! cargo bench                               all, some minutes
//! cargo bench -- gemm_nn/1024               ids that hold these words
//! cargo bench -- --save-baseline before     and later: --baseline before
//! ```
//!
//! For the question "how fast could it be?" there is `handloom bench`; this is for "did my change make
//! it faster?" while working on one kernel.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use handloom::bench::cases;
use handloom::train::control::in_pool;

fn main() {
    // One pool around everything, as around a training step.
    in_pool(0, run).expect("threads");
}

fn run() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // As `cargo test --benches` runs it: every small case once.
    let testing = arguments.iter().any(|a| a == "--test");
    let mut criterion = Criterion::default().configure_from_args();
    for name in cases::groups() {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10);
        group.warm_up_time(Duration::from_millis(200));
        group.measurement_time(Duration::from_secs(1));
        for case in
            cases::all().iter().filter(|case| case.group == name && (case.quick || !testing))
        {
            let id = format!("{name}/{}/{}/{}", case.op, case.shape, case.numbers());
            // Inputs of what the filter leaves out are not made.
            let filtered = |word: &String| word.starts_with('-') || id.contains(word.as_str());
            if !arguments.iter().all(filtered) {
                continue;
            }
            let mut work = case.make().expect(case.op);
            let cost = work.cost();
            group.throughput(if cost.tokens > 0.0 {
                Throughput::Elements(cost.tokens as u64)
            } else if cost.flops > 0.0 {
                Throughput::Elements(cost.flops as u64)
            } else {
                Throughput::Bytes((cost.reads + cost.writes) as u64)
            });
            let parameter = format!("{}/{}", case.shape, case.numbers());
            group.bench_function(BenchmarkId::new(case.op, parameter), |b| {
                b.iter(|| work.run().expect(case.op));
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
