//! Device memory: a pool of blocks cut out of few large chunks.
//!
//! `cuMemAlloc` waits for the whole device, so it is asked rarely: for chunks of tens of megabytes, out of which
//! blocks of multiples of 512 bytes are cut by best fit. A block that is given back joins its free
//! neighbours. All work of a device runs in order on one stream, so a block may be given out again
//! while kernels that read its old content are still waiting to run.
//!
//! A recorded step ([`super::graph`]) writes to the same addresses whenever it is launched. So its blocks come from
//! chunks of their own: each chunk has an owner, and a request is served from the chunks of the owner
//! that is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use super::driver::{self, Address};

const UNIT: usize = 512;
const CHUNK: usize = 32 << 20;

/// Whose chunk it is: 0 for tensors in general, else a recorded step.
pub(super) type Owner = u32;

/// The owner of blocks that are chunks of their own.
const ALONE: Owner = Owner::MAX;

/// `HANDLOOM_CUDA_EXACT=1`: every buffer is asked of the device and given back, at its exact size, so that
/// tools which watch memory see where each ends.
fn exact() -> bool {
    static EXACT: OnceLock<bool> = OnceLock::new();
    *EXACT.get_or_init(|| std::env::var("HANDLOOM_CUDA_EXACT").is_ok_and(|value| value == "1"))
}

/// What the pool of a device holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In buffers that tensors own now.
    pub live: usize,
    /// The most that `live` has been since the last [`reset_peak`](super::reset_peak).
    pub peak: usize,
    /// Taken from the device: live buffers and free blocks.
    pub allocated: usize,
    /// The largest free block; much less than `allocated - live` means that memory is in pieces.
    pub largest_free: usize,
    /// How often the device had to be asked.
    pub misses: usize,
}

#[derive(Clone, Copy)]
struct Block {
    size: usize,
    free: bool,
    /// Whether it begins a chunk: it never joins the block before it.
    first: bool,
    owner: Owner,
}

/// The blocks of a device, free and taken.
#[derive(Default)]
pub(super) struct Pool {
    blocks: BTreeMap<Address, Block>,
    by_size: BTreeSet<(Owner, usize, Address)>,
    /// Who is served now, and the last owner that was made.
    owner: Owner,
    owners: Owner,
    /// While a step is recorded nothing may be taken from the device nor given back.
    sealed: bool,
    stats: MemoryStats,
}

impl Pool {
    /// The figures at this moment.
    pub(super) fn stats(&self) -> MemoryStats {
        let free = self.by_size.iter().map(|&(_, size, _)| size);
        MemoryStats { largest_free: free.max().unwrap_or(0), ..self.stats }
    }

    pub(super) fn reset_peak(&mut self) {
        self.stats.peak = self.stats.live;
    }

    /// A number for somebody who wants chunks of their own.
    pub(super) fn new_owner(&mut self) -> Owner {
        self.owners += 1;
        self.owners
    }

    /// Serves requests from `owner`'s chunks from now on; gives the one before.
    pub(super) fn serve(&mut self, owner: Owner) -> Owner {
        std::mem::replace(&mut self.owner, owner)
    }

    /// Whether a step is being recorded.
    pub(super) fn seal(&mut self, sealed: bool) {
        self.sealed = sealed;
    }

    /// Makes `owner`'s chunks everybody's.
    pub(super) fn disown(&mut self, owner: Owner) {
        for (&address, block) in self.blocks.iter_mut().filter(|(_, block)| block.owner == owner) {
            block.owner = 0;
            if self.by_size.remove(&(owner, block.size, address)) {
                self.by_size.insert((0, block.size, address));
            }
        }
    }

    /// A block of at least `bytes`, of the calling thread's device.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Address, String> {
        if exact() {
            let size = bytes.max(1);
            let address = driver::allocate(size)?;
            self.blocks.insert(address, Block { size, free: false, first: true, owner: ALONE });
            self.stats.allocated += size;
            self.stats.misses += 1;
            self.count(size);
            return Ok(address);
        }
        let size = bytes.max(1).next_multiple_of(UNIT);
        let owner = self.owner;
        let found = self.by_size.range((owner, size, 0)..(owner + 1, 0, 0)).next().copied();
        let (have, address) = match found {
            Some((_, have, address)) => (have, address),
            None => self.grow(size)?,
        };
        self.by_size.remove(&(owner, have, address));
        let first = self.blocks.get(&address).is_some_and(|block| block.first);
        self.blocks.insert(address, Block { size, free: false, first, owner });
        if have > size {
            let rest = address + size as Address;
            let size = have - size;
            self.blocks.insert(rest, Block { size, free: true, first: false, owner });
            self.by_size.insert((owner, size, rest));
        }
        self.count(size);
        Ok(address)
    }

    fn count(&mut self, size: usize) {
        self.stats.live += size;
        self.stats.peak = self.stats.peak.max(self.stats.live);
    }

    /// A new chunk with room for `size` bytes; where there is none, once more after free chunks went back.
    fn grow(&mut self, size: usize) -> Result<(usize, Address), String> {
        let chunk = size.next_multiple_of(CHUNK);
        let address = match driver::allocate(chunk) {
            Ok(address) => address,
            Err(message) if self.sealed => {
                return Err(format!("{message}: a recorded step takes more than its rehearsal"));
            }
            Err(_) => {
                self.release();
                driver::allocate(chunk)?
            }
        };
        self.stats.misses += 1;
        self.stats.allocated += chunk;
        let owner = self.owner;
        self.blocks.insert(address, Block { size: chunk, free: true, first: true, owner });
        self.by_size.insert((owner, chunk, address));
        Ok((chunk, address))
    }

    /// Gives every chunk of which nothing is used back to the device; a recorded step's are used as
    /// long as it may be launched.
    fn release(&mut self) {
        let whole = |(&address, block): (&Address, &Block)| {
            let end = address + block.size as Address;
            let last = self.blocks.range(end..).next().is_none_or(|(&at, b)| at != end || b.first);
            (block.free && block.owner == 0 && block.first && last).then_some((address, block.size))
        };
        let free: Vec<_> = self.blocks.iter().filter_map(whole).collect();
        for (address, size) in free {
            self.blocks.remove(&address);
            self.by_size.remove(&(0, size, address));
            self.stats.allocated -= size;
            driver::free(address);
        }
    }

    /// Takes a block back.
    pub(super) fn put(&mut self, address: Address) {
        let Some(&Block { size, first, owner, .. }) = self.blocks.get(&address) else { return };
        self.stats.live -= size;
        if owner == ALONE {
            self.blocks.remove(&address);
            self.stats.allocated -= size;
            return driver::free(address);
        }
        let (mut start, mut size, mut first) = (address, size, first);
        let after = address + size as Address;
        if let Some(&Block { size: more, free: true, first: false, .. }) = self.blocks.get(&after) {
            self.blocks.remove(&after);
            self.by_size.remove(&(owner, more, after));
            size += more;
        }
        if !first
            && let Some((&before, &Block { size: less, free: true, first: begins, .. })) =
                self.blocks.range(..address).next_back()
        {
            self.blocks.remove(&address);
            self.by_size.remove(&(owner, less, before));
            (start, size, first) = (before, size + less, begins);
        }
        self.blocks.insert(start, Block { size, free: true, first, owner });
        self.by_size.insert((owner, size, start));
    }
}
