//! What every operation must give, computed the plain way: in `f64`, row-major, one element at a time,
//! straight from the formulas and from nothing in `src/`. Slow on purpose and easy to check by eye.
//!
//! [`reference`] has one arm for each entry of the registry. Ids and masks are whole numbers in `f64`.

mod attention;
mod elementwise;
mod loss;
mod product;
mod random;
mod recurrent;
mod rows;
mod shape;

use handloom::ops::registry::Attrs;

/// A row-major array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Array {
    pub fn new(shape: &[usize], data: Vec<f64>) -> Array {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "reference: {shape:?}");
        Array { shape: shape.to_vec(), data }
    }

    /// The array whose element at each index is `f(index)`.
    pub fn build(shape: &[usize], f: impl FnMut(&[usize]) -> f64) -> Array {
        let all = indices(shape);
        Array::new(shape, all.iter().map(Vec::as_slice).map(f).collect())
    }

    pub fn zeros(shape: &[usize]) -> Array {
        Array::build(shape, |_| 0.0)
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The element at an index.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[self.place(index)]
    }

    pub fn at_mut(&mut self, index: &[usize]) -> &mut f64 {
        let place = self.place(index);
        &mut self.data[place]
    }

    fn place(&self, index: &[usize]) -> usize {
        assert_eq!(index.len(), self.rank());
        index.iter().zip(&self.shape).fold(0, |at, (&i, &n)| {
            assert!(i < n);
            at * n + i
        })
    }

    /// The element that stands at `index` of a larger shape to which this array is broadcast.
    pub fn at_broadcast(&self, index: &[usize]) -> f64 {
        let own = &index[index.len() - self.rank()..];
        let clipped: Vec<usize> =
            own.iter().zip(&self.shape).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect();
        self.at(&clipped)
    }
}

/// All indices of a shape in row-major order.
pub fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let count: usize = shape.iter().product();
    let index = |mut flat: usize| {
        let mut index = vec![0; shape.len()];
        for axis in (0..shape.len()).rev() {
            index[axis] = flat % shape[axis];
            flat /= shape[axis];
        }
        index
    };
    (0..count).map(index).collect()
}

/// NumPy's rule for shapes that are known to fit.
pub fn broadcast(shapes: &[&[usize]]) -> Vec<usize> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (axis, &n) in shape.iter().enumerate() {
            let wide = &mut out[rank - shape.len() + axis];
            if n != 1 {
                *wide = n;
            }
        }
    }
    out
}

/// An axis counted from the end where negative.
pub fn axis_of(rank: usize, dim: i64) -> usize {
    if dim < 0 { (rank as i64 + dim) as usize } else { dim as usize }
}

/// The outputs of operation `name`.
pub fn reference(name: &str, x: &[Array], a: &Attrs) -> Vec<Array> {
    match name {
        "neg" | "exp" | "log" | "sqrt" | "tanh" | "sigmoid" | "relu" | "gelu" | "gelu_tanh"
        | "silu" | "powf" | "add_scalar" | "mul_scalar" => {
            let f = |&x: &f64| elementwise::of_one(name, x, a);
            vec![Array::new(&x[0].shape, x[0].data.iter().map(f).collect())]
        }
        "add" | "sub" | "mul" | "div" | "pow" => {
            let shape = broadcast(&[&x[0].shape, &x[1].shape]);
            vec![Array::build(&shape, |i| {
                elementwise::of_two(name, x[0].at_broadcast(i), x[1].at_broadcast(i))
            })]
        }
        "where" => {
            let shape = broadcast(&[&x[0].shape, &x[1].shape, &x[2].shape]);
            vec![Array::build(&shape, |i| {
                let chosen = if x[0].at_broadcast(i) != 0.0 { &x[1] } else { &x[2] };
                chosen.at_broadcast(i)
            })]
        }
        "masked_fill" => {
            let shape = broadcast(&[&x[0].shape, &x[1].shape]);
            vec![Array::build(&shape, |i| {
                if x[1].at_broadcast(i) != 0.0 { a.float("value") } else { x[0].at_broadcast(i) }
            })]
        }
        "sum" => vec![rows::sum(&x[0], a.ints("dims"), a.flag("keepdim"), false)],
        "mean" => vec![rows::sum(&x[0], a.ints("dims"), a.flag("keepdim"), true)],
        "max" => {
            let (values, indices) = rows::max(&x[0], a.int("dim"), a.flag("keepdim"));
            vec![values, indices]
        }
        "argmax" => vec![rows::max(&x[0], a.int("dim"), false).1],
        "softmax" => vec![rows::softmax(&x[0], a.int("dim"), false)],
        "log_softmax" => vec![rows::softmax(&x[0], a.int("dim"), true)],
        "layer_norm" => vec![rows::layer_norm(&x[0], x.get(1), x.get(2), a.float("eps"))],
        "rms_norm" => vec![rows::rms_norm(&x[0], x.get(1), a.float("eps"))],
        "reshape" => vec![Array::new(&a.shape("shape"), x[0].data.clone())],
        "flatten" => vec![shape::flatten(&x[0], a.ints("dims"))],
        "transpose" => vec![shape::transpose(&x[0], a.ints("dims"))],
        "t" => vec![shape::transpose(&x[0], &[0, 1])],
        "permute" => vec![shape::permute(&x[0], a.ints("dims"))],
        "narrow" => {
            let r = a.shape("range");
            vec![shape::slice(&x[0], a.int("dim"), r[0], r[1], 1)]
        }
        "slice" => {
            let r = a.shape("range");
            let len = (r[0]..r[1]).step_by(r[2]).count();
            vec![shape::slice(&x[0], a.int("dim"), r[0], len, r[2])]
        }
        "select" => {
            let one = shape::slice(&x[0], a.int("dim"), a.int("index") as usize, 1, 1);
            vec![shape::without_axis(&one, a.int("dim"))]
        }
        "expand" => vec![Array::build(&a.shape("shape"), |i| x[0].at_broadcast(i))],
        "squeeze" => vec![shape::without_axis(&x[0], a.int("dim"))],
        "unsqueeze" => vec![shape::with_axis(&x[0], a.int("dim"))],
        "split" => shape::split(&x[0], a.int("size") as usize, a.int("dim")),
        "chunk" => {
            let n = x[0].shape[axis_of(x[0].rank(), a.int("dim"))];
            shape::split(&x[0], n.div_ceil(a.int("n") as usize).max(1), a.int("dim"))
        }
        "cat" => vec![shape::cat(x, a.int("dim"))],
        "stack" => {
            let raised: Vec<Array> = x.iter().map(|x| shape::with_axis(x, a.int("dim"))).collect();
            vec![shape::cat(&raised, a.int("dim"))]
        }
        "to_dtype" | "contiguous" | "to_device" => vec![x[0].clone()],
        "matmul" => vec![product::matmul(&x[0], &x[1])],
        "linear" => vec![product::linear(&x[0], &x[1], x.get(2))],
        "linear_add" => {
            let y = product::linear(&x[0], &x[1], x.get(3));
            let sum = y.data.iter().zip(&x[2].data).map(|(a, b)| a + b).collect();
            vec![Array::new(&y.shape, sum)]
        }
        "linear_gelu" => {
            let mut y = product::linear(&x[0], &x[1], x.get(2));
            let gelu = if a.flag("tanh") { "gelu_tanh" } else { "gelu" };
            y.data.iter_mut().for_each(|x| *x = elementwise::of_one(gelu, *x, a));
            vec![y]
        }
        "cross_entropy" => vec![loss::cross_entropy(&x[0], &x[1], x.get(2), a)],
        "linear_cross_entropy" => {
            let logits = product::linear(&x[0], &x[2], x.get(3));
            vec![loss::cross_entropy(&logits, &x[1], None, a)]
        }
        "binary_cross_entropy_with_logits" => {
            vec![loss::binary_cross_entropy(&x[0], &x[1], x.get(2))]
        }
        "crf" => vec![loss::crf(x)],
        "viterbi" => vec![loss::viterbi(x)],
        "embedding" => vec![shape::embedding(&x[0], &x[1])],
        "index_select" => vec![shape::index_select(&x[0], a.int("dim"), &x[1])],
        "gather" => vec![shape::gather(&x[0], a.int("dim"), &x[1])],
        "scatter_add" => vec![shape::scatter_add(&x[0], a.int("dim"), &x[1], &x[2])],
        "dropout" => {
            // The entry of the registry draws with stream 3 at step 5.
            let key = random::Key { seed: a.int("seed") as u64, stream: 3, step: 5 };
            vec![random::dropout(&x[0], a.float("p"), key)]
        }
        "scaled_dot_product_attention" => {
            vec![attention::attention(&x[0], &x[1], &x[2], x.get(3), a)]
        }
        "self_attention_qkv" => vec![attention::fused(&x[0], x.get(1), a)],
        "rnn_sequence" => recurrent::rnn(x, a),
        "lstm_sequence" => recurrent::lstm(x, a),
        "gru_sequence" => recurrent::gru(x, a),
        other => panic!("operation {other} has no reference: write one in tests/reference"),
    }
}
