//! Matrix products.

use super::{Array, broadcast};

pub fn matmul(a: &Array, b: &Array) -> Array {
    // A vector on the left is a row, on the right a column; its axis disappears again.
    if a.rank() == 1 {
        let row = Array::new(&[1, a.shape[0]], a.data.clone());
        let mut c = matmul(&row, b);
        let place = c.rank() - if b.rank() == 1 { 1 } else { 2 };
        c.shape.remove(place);
        return c;
    }
    if b.rank() == 1 {
        let column = Array::new(&[b.shape[0], 1], b.data.clone());
        let mut c = matmul(a, &column);
        c.shape.pop();
        return c;
    }
    let (m, k) = (a.shape[a.rank() - 2], a.shape[a.rank() - 1]);
    let n = b.shape[b.rank() - 1];
    let batch = broadcast(&[&a.shape[..a.rank() - 2], &b.shape[..b.rank() - 2]]);
    let shape = [batch.as_slice(), &[m, n]].concat();
    Array::build(&shape, |index| {
        let (batch, matrix) = index.split_at(index.len() - 2);
        let at = |x: &Array, i: usize, j: usize| x.at_in_batch(batch, i, j);
        (0..k).map(|l| at(a, matrix[0], l) * at(b, l, matrix[1])).sum()
    })
}

impl Array {
    /// Element `(i, j)` of the matrix that belongs to `batch`, whose axes may be broadcast.
    fn at_in_batch(&self, batch: &[usize], i: usize, j: usize) -> f64 {
        let own = self.rank() - 2;
        let outer = &batch[batch.len() - own..];
        let mut place = 0;
        for (&b, &n) in outer.iter().zip(&self.shape) {
            place = place * n + if n == 1 { 0 } else { b };
        }
        let (rows, cols) = (self.shape[own], self.shape[own + 1]);
        self.data[(place * rows + i) * cols + j]
    }
}

pub fn linear(x: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    let (out, inner) = (weight.shape[0], weight.shape[1]);
    let rows: usize = x.shape[..x.rank() - 1].iter().product();
    let mut data = Vec::with_capacity(rows * out);
    for r in 0..rows {
        for o in 0..out {
            let dot: f64 =
                (0..inner).map(|i| x.data[r * inner + i] * weight.data[o * inner + i]).sum();
            data.push(dot + bias.map_or(0.0, |b| b.data[o]));
        }
    }
    Array::new(&[&x.shape[..x.rank() - 1], &[out]].concat(), data)
}
