//! A training step in the steady state allocates nothing: no buffer, no node, no list.
//!
//! One test alone in its process, because it counts what every thread allocates.

#[path = "common/training.rs"]
mod training;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use handloom::tensor::memory_stats;
use handloom::train::Trainer;
use handloom::train::config::TrainerConfig;
use handloom::train::control::in_pool;
use training::{Kind, Size, Ticker, config, task};

struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static SHOW: AtomicBool = AtomicBool::new(false);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

fn count(size: usize) {
    if ON.load(SeqCst) && !INSIDE.get() {
        let n = COUNT.fetch_add(1, SeqCst);
        // Where they come from is what one wants to know; the first steps are allowed some.
        if n < 3 && SHOW.load(SeqCst) {
            INSIDE.set(true);
            let trace = std::backtrace::Backtrace::force_capture();
            eprintln!("allocation of {size} bytes\n{trace}");
            INSIDE.set(false);
        }
    }
}

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_in_the_steady_state_allocates_nothing() {
    let size =
        Size { width: 64, layers: 2, context: 32, batch: 8, vocab: 80, tokens: 3000, dropout: 0.1 };
    for kind in [Kind::Gpt, Kind::Lstm] {
        for threads in [1, 2] {
            let mut ticker = Ticker::new(None);
            let mut control = ticker.control();
            let mut task = task(kind, size);
            let config = TrainerConfig { batch_size: size.batch, eval_steps: 0, ..config(1000) };
            let mut trainer = Trainer::new(&config, task.as_mut(), &mut control).unwrap();
            // A thread grows its scratch when it first gets a task, which may be late on a busy machine.
            // So one block of steps without an allocation must come soon; a step that allocates each
            // time never lets it come.
            in_pool(threads, || {
                let mut counts = Vec::new();
                for block in 0..20 {
                    SHOW.store(block == 19, SeqCst);
                    let misses = memory_stats().misses;
                    COUNT.store(0, SeqCst);
                    ON.store(true, SeqCst);
                    for _ in 0..10 {
                        trainer.step().unwrap();
                    }
                    ON.store(false, SeqCst);
                    counts.push((COUNT.load(SeqCst), memory_stats().misses - misses));
                    if counts.last() == Some(&(0, 0)) {
                        return;
                    }
                }
                panic!(
                    "{kind:?} on {threads} thread(s): allocations and pool misses of each 10 steps: {counts:?}"
                );
            })
            .unwrap();
        }
    }
}
