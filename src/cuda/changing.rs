//! What changes from launch to launch of a recorded step.
//!
//! The arguments of a recorded kernel are the same at every launch. What must differ (the random numbers of a
//! dropout, the step sizes of an optimiser) lies in a table on the device that is written before each launch; the kernel
//! is given the address of its entry. While a step is being recorded, this notes which entry is what.

use super::driver::Address;
use crate::cpu::philox::{Key, Stream};

/// An entry: eight words.
pub(super) const ENTRY: usize = 32;

/// The most entries of a step.
pub(super) const MOST: usize = 1 << 14;

/// What an entry holds.
#[derive(Clone, Copy)]
enum Slot {
    /// A stream of random numbers; its step counts from the one that was recorded.
    Stream(Key),
    /// What whoever launches the step gives.
    Numbers,
}

/// A step while it is recorded, and the entries it needs afterwards.
pub(super) struct Recording {
    table: Address,
    position: u64,
    slots: Vec<Slot>,
}

impl Recording {
    /// Of a step at training position `position`, with a table of [`MOST`] entries.
    pub(super) fn new(table: Address, position: u64) -> Recording {
        Recording { table, position, slots: Vec::new() }
    }

    /// Where the stream of `key` will lie.
    pub(super) fn stream(&mut self, key: Key) -> Address {
        self.entry(Slot::Stream(key))
    }

    /// Where the next numbers of the launcher's will lie.
    pub(super) fn numbers(&mut self) -> Address {
        self.entry(Slot::Numbers)
    }

    fn entry(&mut self, slot: Slot) -> Address {
        self.slots.push(slot);
        self.table + ((self.slots.len() - 1) % MOST * ENTRY) as Address
    }

    /// Whether the table is too small.
    pub(super) fn overflows(&self) -> bool {
        self.slots.len() > MOST
    }

    /// The table of the step at `position`, with `numbers` in the order in which they were asked for.
    pub(super) fn table(&self, position: u64, numbers: &[[u32; 8]]) -> Option<Vec<[u32; 8]>> {
        let mut numbers = numbers.iter();
        let entry = |slot: &Slot| match *slot {
            Slot::Numbers => numbers.next().copied(),
            Slot::Stream(key) => {
                let step = key.step.wrapping_sub(self.position).wrapping_add(position);
                let [a, b, c, d] = Stream::new(Key { step, ..key }).words();
                Some([a, b, c, d, 0, 0, 0, 0])
            }
        };
        let table: Option<Vec<_>> = self.slots.iter().map(entry).collect();
        table.filter(|_| numbers.next().is_none())
    }
}
