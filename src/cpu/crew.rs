//! The threads that help a kernel: one crew for the process, waiting close by.
//!
//! A training step is a thousand small pieces of parallel work with a few microseconds between them. A
//! thread that has gone to sleep takes longer to wake than many of these pieces last. So helpers look out for
//! the next job for a while before they sleep, and a job is put on one board:
//!
//! ```text
//! board   │ number of the job │ pieces nobody has taken yet │      one word of 64 bits
//! ```
//!
//! Whoever takes a piece, helpers and the thread that brought the job alike, lowers the count by one in a
//! single step that fails when the number has changed. So a piece is done once, nobody touches a job that is
//! over, and a helper that sleeps or is held up by another program is not waited for unless it has
//! taken a piece. Which thread does what changes nothing in the results: pieces are cut by shape alone.
//!
//! One job at a time: who comes while the board is taken, from another thread or from inside a piece, is
//! told so and finds another way.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Condvar, Mutex, PoisonError};

/// Looks at the board, some 10 ns each, before a thread that waits offers its core to others.
const LOOKS: usize = 4000;

/// Offers before it sleeps: where nobody takes them, some 50 µs.
const OFFERS: usize = 200;

type Piece<'a> = dyn Fn(usize) + Sync + 'a;

/// A job: `run(i)` for each `i` in `0..pieces`.
#[derive(Clone, Copy)]
struct Job {
    run: *const Piece<'static>,
    pieces: usize,
}

struct Crew {
    /// Whether a job is on the board.
    taken: AtomicBool,
    /// The number of the job above, pieces to be taken below.
    board: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Pieces that are finished.
    done: AtomicUsize,
    /// Helpers that this job wants.
    wanted: AtomicUsize,
    /// Helpers there are.
    helpers: AtomicUsize,
    /// Helpers that sleep, or are about to.
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    /// What the first piece that panicked said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the thread that holds `taken`, when no piece of an earlier job is left,
// and read only by threads that have taken a piece of this one; `board` orders the two.
unsafe impl Sync for Crew {}

static CREW: Crew = Crew {
    taken: AtomicBool::new(false),
    board: AtomicU64::new(0),
    job: UnsafeCell::new(None),
    done: AtomicUsize::new(0),
    wanted: AtomicUsize::new(0),
    helpers: AtomicUsize::new(0),
    asleep: AtomicUsize::new(0),
    bed: Mutex::new(()),
    bell: Condvar::new(),
    panic: Mutex::new(None),
};

thread_local! {
    /// Whether this thread is at work on a piece.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is at work on a piece of a job.
pub(super) fn busy() -> bool {
    BUSY.get()
}

/// Calls `run(i)` for each `i` in `0..pieces` on `threads` threads, the calling one among them. `false`: the
/// crew is busy and nothing has been done.
pub(super) fn share(threads: usize, pieces: usize, run: &Piece<'_>) -> bool {
    if cfg!(miri) {
        return false; // which wants every thread to have ended before the program does
    }
    let crew = &CREW;
    let Ok(count) = u32::try_from(pieces) else { return false };
    if crew.taken.swap(true, Acquire) {
        return false;
    }
    crew.recruit(threads - 1);
    // SAFETY: this thread holds `taken`, and the last job is over: no piece of it is left or at work. The
    // lifetime is left out of the type; `run` stays borrowed until all pieces are done, below.
    unsafe {
        let run = std::mem::transmute::<&Piece<'_>, &Piece<'static>>(run);
        *crew.job.get() = Some(Job { run, pieces });
    }
    crew.done.store(0, Relaxed);
    crew.wanted.store(threads - 1, Relaxed);
    let number = (crew.board.load(Relaxed) >> 32) as u32;
    let number = number.wrapping_add(1);
    crew.board.store(u64::from(number) << 32 | u64::from(count), SeqCst);
    if crew.asleep.load(SeqCst) > 0 {
        // With the lock, so that nobody is between his last look and his sleep.
        let _bed = crew.bed.lock().unwrap_or_else(PoisonError::into_inner);
        crew.bell.notify_all();
    }
    crew.work(number);
    let mut looks = 0;
    while crew.done.load(Acquire) < pieces {
        pause(&mut looks);
    }
    let panic = crew.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    crew.taken.store(false, Release);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
    true
}

impl Crew {
    /// Starts helpers until there are `wanted`. They stay for the life of the process.
    fn recruit(&'static self, wanted: usize) {
        for index in self.helpers.load(Relaxed)..wanted {
            let name = format!("handloom-helper-{index}");
            let helper = std::thread::Builder::new().name(name).spawn(move || self.help(index));
            if helper.is_err() {
                return; // fewer will do
            }
            self.helpers.store(index + 1, Relaxed);
        }
    }

    /// The life of a helper.
    fn help(&self, index: usize) {
        // More threads than cores: who looks out takes the core of one who works.
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let patience = if index + 1 < cores { LOOKS + OFFERS } else { 0 };
        let mut last = 0;
        loop {
            last = self.next(last, patience);
            if index < self.wanted.load(Relaxed) {
                self.work(last);
            }
        }
    }

    /// Waits for a job with another number than `last`, after so many looks asleep.
    fn next(&self, last: u32, patience: usize) -> u32 {
        let number = || (self.board.load(SeqCst) >> 32) as u32;
        let mut looks = 0;
        while looks < patience {
            if number() != last {
                return number();
            }
            pause(&mut looks);
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, SeqCst);
        while number() == last {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, SeqCst);
        number()
    }

    /// Does pieces of job `number` until none is left.
    fn work(&self, number: u32) {
        BUSY.set(true);
        while let Some(left) = self.take(number) {
            // SAFETY: a piece of this job is ours, so the thread that brought it waits for us: the job is in
            // its place and what it borrows is alive.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe {
                if let Some(job) = *self.job.get() {
                    (*job.run)(job.pieces - left);
                }
            }));
            if let Err(panic) = outcome {
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(panic);
            }
            self.done.fetch_add(1, Release);
        }
        BUSY.set(false);
    }

    /// Takes one piece of job `number`: how many were left, this one included.
    fn take(&self, number: u32) -> Option<usize> {
        let mut seen = self.board.load(Acquire);
        loop {
            let left = seen as u32;
            if (seen >> 32) as u32 != number || left == 0 {
                return None;
            }
            match self.board.compare_exchange_weak(seen, seen - 1, Acquire, Acquire) {
                Ok(_) => return Some(left as usize),
                Err(now) => seen = now,
            }
        }
    }
}

/// One look: at first without giving the core away.
fn pause(looks: &mut usize) {
    if *looks < LOOKS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
    *looks += 1;
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    /// The crew is the process's: other tests may hold it for a moment.
    fn share_at_last(threads: usize, pieces: usize, run: &Piece<'_>) {
        while !share(threads, pieces, run) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_piece_is_done_once() {
        for round in 0..200 {
            let pieces = round % 37;
            let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            share_at_last(1 + round % 4, pieces, &|i| {
                counts[i].fetch_add(1, Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Relaxed) == 1), "round {round}");
            if round % 50 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5)); // all asleep
            }
        }
    }

    #[test]
    fn a_job_inside_a_piece_is_refused() {
        share_at_last(2, 8, &|_| {
            assert!(busy() && !share(2, 2, &|_| unreachable!("the board is taken")));
        });
        assert!(!busy());
    }

    #[test]
    fn a_panic_comes_back_to_the_one_who_asked() {
        let done = AtomicUsize::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            share_at_last(3, 10, &|i| {
                assert!(i != 7, "piece seven");
                done.fetch_add(1, Relaxed);
            });
        }));
        let panic = outcome.unwrap_err();
        assert!(panic.downcast_ref::<&str>().is_some_and(|text| text.contains("seven")));
        assert_eq!(done.load(Relaxed), 9);
        share_at_last(3, 2, &|_| {});
    }
}
