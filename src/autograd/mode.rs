//! What the code around an operation says about it: are gradients wanted, is this training, which
//! layer are we in, how exact are products to be. One small value per thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use crate::cpu::gemm::Precision;

/// The name of a layer, such as `transformer.h.0.attn`, as a small number that costs nothing to
/// carry. [`Scope::enter`] makes it the scope of the operations that follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(u32);

#[derive(Default)]
struct Names {
    list: Vec<&'static str>,
    numbers: HashMap<&'static str, u32>,
}

fn names() -> std::sync::MutexGuard<'static, Names> {
    static NAMES: OnceLock<Mutex<Names>> = OnceLock::new();
    let names = NAMES
        .get_or_init(|| Mutex::new(Names { list: vec![""], numbers: HashMap::from([("", 0)]) }));
    names.lock().unwrap_or_else(|broken| broken.into_inner())
}

impl Scope {
    /// The scope called `name`. Names are few (one a layer) and are kept for the life of the process.
    pub fn new(name: &str) -> Scope {
        let mut names = names();
        if let Some(&number) = names.numbers.get(name) {
            return Scope(number);
        }
        let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
        let number = names.list.len() as u32;
        names.list.push(kept);
        names.numbers.insert(kept, number);
        Scope(number)
    }

    /// The name; empty outside any layer.
    pub fn name(self) -> &'static str {
        names().list[self.0 as usize]
    }

    /// Makes this the current scope until the guard is dropped.
    #[must_use = "the scope ends when the guard is dropped"]
    pub fn enter(self) -> ModeGuard {
        Mode { scope: self, ..Mode::current() }.enter()
    }
}

/// The whole state, copied around as one value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub(crate) grad: bool,
    pub(crate) training: Option<(u64, u64)>,
    pub(crate) scope: Scope,
    pub(crate) precision: Precision,
}

thread_local! {
    static MODE: Cell<Mode> = const {
        Cell::new(Mode {
            grad: true,
            training: None,
            scope: Scope(0),
            precision: Precision::Highest,
        })
    };
}

impl Mode {
    pub(crate) fn current() -> Mode {
        MODE.get()
    }

    /// Makes `self` the current mode until the guard is dropped.
    pub(crate) fn enter(self) -> ModeGuard {
        ModeGuard { before: MODE.replace(self) }
    }
}

/// Restores the mode that was in force before.
pub struct ModeGuard {
    before: Mode,
}

impl Drop for ModeGuard {
    fn drop(&mut self) {
        MODE.set(self.before);
    }
}

/// Runs `f` without recording: nothing in it gets a history.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    let _guard = Mode { grad: false, ..Mode::current() }.enter();
    f()
}

/// Runs `f` in training mode: dropout drops, with random numbers that are a pure function of `seed`,
/// the layer and `step`. Outside of this everything evaluates.
pub fn training<R>(seed: u64, step: u64, f: impl FnOnce() -> R) -> R {
    let _guard = Mode { training: Some((seed, step)), ..Mode::current() }.enter();
    f()
}

/// Runs `f` with products of `f32` matrices computed as exactly as `precision` says, those of a
/// backward pass inside `f` too.
pub fn matmul_precision<R>(precision: Precision, f: impl FnOnce() -> R) -> R {
    let _guard = Mode { precision, ..Mode::current() }.enter();
    f()
}

/// `(seed, step)` inside [`training`], `None` outside.
pub fn training_position() -> Option<(u64, u64)> {
    Mode::current().training
}
