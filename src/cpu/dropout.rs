//! Dropout by counting: whether element i is kept is a function of the key and i alone.
//!
//! Nothing is stored between forward and backward: a mask of the same key is the same mask. Element i
//! belongs to the random word that [`philox`](super::philox) gives it; it is dropped where the word is
//! below p · 2³².

use super::philox::{Key, Stream};
use super::simd::{Kernel, LANES, Real, Vector};
use super::threads;

/// Elements that sixteen blocks of four words decide on.
const GROUP: usize = 4 * LANES;

/// Elements of a chunk, a multiple of [`GROUP`].
const CHUNK: usize = 8 * 1024;

/// `y = x / (1 − p)` where the element is kept, 0 where it is dropped.
pub fn forward<T: Real>(y: &mut [T], x: &[T], p: f64, key: Key) {
    assert_eq!(y.len(), x.len());
    if p >= 1.0 {
        y.fill(T::ZERO);
        return;
    }
    let below = (p * (1u64 << 32) as f64) as u32;
    let scale = T::from_f64(1.0 / (1.0 - p));
    let stream = Stream::new(key);
    let work = 3 * y.len();
    threads::for_chunks(y, CHUNK, work, |i, y| {
        let x = &x[i * CHUNK..][..y.len()];
        let first = (i * (CHUNK / GROUP) * LANES) as u64;
        T::dispatch(Drop { y, x, below, scale, stream, first });
    });
}

/// `dx = dy / (1 − p)` where the element was kept, 0 where it was dropped.
pub fn backward<T: Real>(dx: &mut [T], dy: &[T], p: f64, key: Key) {
    forward(dx, dy, p, key);
}

/// A chunk that starts at block `first`.
struct Drop<'a, T> {
    y: &'a mut [T],
    x: &'a [T],
    below: u32,
    scale: T,
    stream: Stream,
    first: u64,
}

impl<T: Real> Kernel<T> for Drop<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<Elem = T>>(self) {
        let Drop { y, x, below, scale, stream, first } = self;
        for (g, (y, x)) in y.chunks_mut(GROUP).zip(x.chunks(GROUP)).enumerate() {
            let words = stream.blocks(first + (g * LANES) as u64);
            for (w, (y, x)) in y.chunks_mut(LANES).zip(x.chunks(LANES)).enumerate() {
                let mut factor = [scale; LANES];
                for j in 0..LANES {
                    factor[j] = if words[w][j] < below { T::ZERO } else { scale };
                }
                let factor = V::from_array(factor);
                if y.len() == LANES {
                    masked(V::load(x), factor).store(y);
                } else {
                    masked(V::load_part(x), factor).store_part(y);
                }
            }
        }
    }
}

/// x · factor, and 0 for a factor of 0 whatever x is.
#[inline(always)]
fn masked<V: Vector>(x: V, factor: V) -> V {
    V::select(factor.eq(V::zero()), factor, x.mul(factor))
}

#[cfg(test)]
mod tests {
    use super::super::philox::bits;
    use super::super::rows::testing::same_bits;
    use super::*;

    const KEY: Key = Key { seed: 5, stream: 2, step: 9 };

    #[test]
    fn each_element_asks_its_own_word() {
        for n in [0, 1, 15, 16, 63, 64, 65, 8191, 8193, 70_000] {
            let x = vec![1.0f32; n];
            let mut y = vec![9.0f32; n];
            forward(&mut y, &x, 0.3, KEY);
            for (i, &y) in y.iter().enumerate().take(300) {
                let word = bits(KEY, (16 * (i / 64) + i % 16) as u64)[i % 64 / 16];
                let kept = word as f64 >= (0.3f64 * 4_294_967_296.0).floor();
                assert_eq!(y, if kept { (1.0f64 / 0.7) as f32 } else { 0.0 }, "{i} of {n}");
            }
            let mut dx = vec![9.0f32; n];
            backward(&mut dx, &x, 0.3, KEY);
            assert_eq!(dx, y);
            let mut wide = vec![9.0f64; n];
            forward(&mut wide, &vec![1.0; n], 0.3, KEY);
            let same = wide.iter().zip(&y).all(|(a, b)| (*a == 0.0) == (*b == 0.0));
            assert!(same, "f64 drops other elements than f32");
        }
    }

    #[test]
    fn the_share_that_is_kept() {
        let x = vec![1.0f32; 1 << 20];
        let mut y = x.clone();
        for p in [0.1, 0.5, 0.9] {
            forward(&mut y, &x, p, KEY);
            let dropped = y.iter().filter(|&&y| y == 0.0).count() as f64 / x.len() as f64;
            assert!((dropped - p).abs() < 2e-3, "{dropped} is not {p}");
        }
    }

    #[test]
    fn all_or_nothing() {
        let x = [1.0f32, -2.0, f32::NAN, 3.0];
        let mut y = [9.0f32; 4];
        forward(&mut y, &x, 1.0, KEY);
        assert_eq!(y, [0.0; 4]);
        forward(&mut y[..2], &x[..2], 0.0, KEY);
        assert_eq!(y[..2], x[..2]);
    }

    #[test]
    fn the_same_bits_everywhere() {
        let x: Vec<f32> = (0..50_001).map(|i| i as f32).collect();
        same_bits(|| {
            let mut y = vec![0.0; x.len()];
            forward(&mut y, &x, 0.25, KEY);
            y
        });
    }
}
