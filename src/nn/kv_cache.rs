//! Keys and values of the positions that a decoder has already seen.
//!
//! Generating token t needs attention of one query to t keys. The keys and values of earlier
//! positions do not change, so they are kept: each step projects one new position and appends it.
//! The buffers `[B, capacity, C]` are made once; appending writes rows in place, reading is a view.

use crate::cpu::strided;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, kernel_any};

/// Keys and values of one attention layer.
///
/// Nothing in here has a history: gradients do not flow through a cache, and an append with tracked
/// keys or values is refused.
#[derive(Clone)]
pub struct KvCache {
    keys: Tensor,
    values: Tensor,
    len: usize,
}

impl KvCache {
    /// An empty cache for `batch` rows of up to `capacity` positions of `width` = heads · D
    /// elements.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(batch: usize, capacity: usize, width: usize, dtype: DType) -> Result<KvCache> {
        let shape = [batch, capacity, width];
        Ok(KvCache {
            keys: Tensor::zeros(shape, dtype)?,
            values: Tensor::zeros(shape, dtype)?,
            len: 0,
        })
    }

    /// How many positions are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many positions it can hold.
    pub fn capacity(&self) -> usize {
        self.keys.shape()[1]
    }

    /// Forgets all positions; the buffers stay.
    pub fn reset(&mut self) {
        self.len = 0;
    }

    /// Forgets all but the first `len` positions.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Row i of the batch becomes what row `rows[i]` was: beams that go on from other beams.
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn reorder(&mut self, rows: &Tensor) -> Result<()> {
        self.keys = self.keys.index_select(0, rows)?;
        self.values = self.values.index_select(0, rows)?;
        Ok(())
    }

    /// Appends `[B, T, C]` keys and values and returns all there are, as views `[B, len, C]`. Drop
    /// the views before the next append, which would otherwise have to copy.
    ///
    /// # Errors
    /// When the cache is full, shapes or dtypes do not fit, or the tensors are tracked by autograd.
    #[track_caller]
    pub fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        const OP: &str = "kv_cache";
        let (batch, capacity, width) =
            (self.keys.shape()[0], self.capacity(), self.keys.shape()[2]);
        let t = if keys.rank() == 3 { keys.shape()[1] } else { 0 };
        for (what, x) in [("keys", keys), ("values", values)] {
            if x.shape() != [batch, t, width] || x.dtype() != self.keys.dtype() {
                return Err(Error::op(
                    OP,
                    format!(
                        "{what} are {} {:?}, expected {} [{batch}, T, {width}]",
                        x.dtype(),
                        x.shape(),
                        self.keys.dtype()
                    ),
                ));
            }
            if x.requires_grad() {
                return Err(Error::op(
                    OP,
                    format!(
                        "{what} are tracked; gradients cannot flow through a cache: use no_grad"
                    ),
                ));
            }
        }
        if self.len + t > capacity {
            return Err(Error::op(
                OP,
                format!("{} positions and {t} more do not fit into {capacity}", self.len),
            ));
        }
        if self.keys.device() != keys.device() {
            // The first keys decide where the cache lives.
            self.keys = self.keys.moved(keys.device())?;
            self.values = self.values.moved(keys.device())?;
        }
        write_rows(&mut self.keys, keys, self.len)?;
        write_rows(&mut self.values, values, self.len)?;
        self.len += t;
        Ok((self.keys.narrow(1, 0, self.len)?, self.values.narrow(1, 0, self.len)?))
    }
}

/// Copies `rows` `[B, T, C]` to the positions from `start` on of `into` `[B, capacity, C]`.
fn write_rows(into: &mut Tensor, rows: &Tensor, start: usize) -> Result<()> {
    if rows.numel() == 0 {
        return Ok(());
    }
    let rows = rows.packed()?;
    into.own()?;
    let place = into.layout().slice(1, start, rows.shape()[1], 1);
    kernel_any!(rows, E => strided::scatter::<E>(
        into.slice_mut_from(place.offset), &place.strides, rows.slice_ref(), &place.shape
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_rows_come_back_in_order_and_in_place() {
        let mut cache = KvCache::new(2, 4, 1, DType::F32).unwrap();
        let x = |v: &[f32], t: usize| Tensor::from_slice(v, [2, t, 1]).unwrap();
        drop(cache.append(&x(&[1.0, 2.0, 5.0, 6.0], 2), &x(&[0.0; 4], 2)).unwrap());
        let buffer = cache.keys.as_slice::<f32>().unwrap().as_ptr();
        let (k, v) = cache.append(&x(&[3.0, 7.0], 1), &x(&[8.0, 9.0], 1)).unwrap();
        assert_eq!(k.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]);
        assert_eq!(v.to_vec::<f32>().unwrap(), [0.0, 0.0, 8.0, 0.0, 0.0, 9.0]);
        drop((k, v));
        assert_eq!(cache.keys.as_slice::<f32>().unwrap().as_ptr(), buffer);
        assert!(cache.append(&x(&[0.0; 4], 2), &x(&[0.0; 4], 2)).is_err(), "full");
        cache.truncate(1);
        cache.reorder(&Tensor::from_slice(&[1u32, 0], 2).unwrap()).unwrap();
        let (k, _) = cache.append(&x(&[0.5, 0.25], 1), &x(&[0.0; 2], 1)).unwrap();
        assert_eq!(k.to_vec::<f32>().unwrap(), [5.0, 0.5, 1.0, 0.25]);
    }

    #[test]
    fn tracked_keys_are_refused() {
        let mut cache = KvCache::new(1, 4, 1, DType::F32).unwrap();
        let x = Tensor::ones([1, 1, 1], DType::F32).unwrap().requires_grad_().unwrap();
        let y = x.detach();
        assert!(cache.append(&x, &y).err().unwrap().to_string().contains("no_grad"));
        assert_eq!(cache.len(), 0);
    }
}
