//! Calls beyond those of the registry: the corners (size 1, size 0) and sizes large enough to be cut
//! into chunks, not multiples of any vector.

use handloom::ops::registry::{Entry, Input, Sample};

/// All small calls of an operation, for full Jacobians.
pub fn small(entry: &Entry) -> Vec<Sample> {
    let mut samples = (entry.samples)();
    samples.extend(corners(entry.name));
    samples
}

/// Inputs of an operation that have no derivative by its definition: targets and class weights.
pub fn constants(name: &str) -> &'static [usize] {
    match name {
        "binary_cross_entropy_with_logits" => &[1, 2],
        "cross_entropy" => &[2],
        _ => &[],
    }
}

fn float(shape: &[usize]) -> Input {
    Input::float(shape, -1.0, 1.0)
}

fn positive(shape: &[usize]) -> Input {
    Input::float(shape, 0.4, 2.0)
}

/// Sizes 1 and 0 wherever the registry's own samples lack them, and shapes that once went wrong
/// elsewhere.
fn corners(name: &str) -> Vec<Sample> {
    let one = |shape: &[usize]| Sample::of([float(shape)]);
    match name {
        "powf" => [&[1, 1][..], &[0], &[]]
            .map(|s| Sample::of([positive(s)]).float("exponent", 1.7))
            .into(),
        "add_scalar" | "mul_scalar" => {
            [&[1, 1][..], &[0], &[], &[2, 33]].map(|s| one(s).float("value", 0.7)).into()
        }
        "where" => vec![
            Sample::of([Input::ids([1], 2), float(&[1, 1]), float(&[1])]),
            Sample::of([Input::exactly((), &[1]), float(&[]), float(&[])]),
            Sample::of([Input::ids([3, 1], 2), float(&[3, 19]), float(&[19])]),
        ],
        "masked_fill" => vec![
            Sample::of([float(&[1]), Input::exactly([1], &[0])]).float("value", 2.0),
            Sample::of([float(&[]), Input::exactly((), &[1])]).float("value", 2.0),
            Sample::of([float(&[0, 2]), Input::ids([2], 2)]).float("value", 2.0),
            // The mask may also widen the result.
            Sample::of([float(&[3]), Input::ids([2, 3], 2)]).float("value", 2.0),
        ],
        "mean" | "sum" => vec![one(&[1]).ints("dims", &[0]), one(&[2, 0]).ints("dims", &[0])],
        "max" => vec![
            one(&[1, 1]).ints("dim", &[0]).flag("keepdim", true),
            one(&[17, 2]).ints("dim", &[0]),
        ],
        "argmax" => vec![one(&[1]).ints("dim", &[0]), one(&[0, 2]).ints("dim", &[1])],
        "softmax" | "log_softmax" => {
            vec![
                one(&[3, 1]).ints("dim", &[1]),
                one(&[1, 5, 1]).ints("dim", &[-2]),
                one(&[0]).ints("dim", &[0]),
            ]
        }
        "rms_norm" => vec![
            Sample::of([float(&[1, 1]), float(&[1])]).float("eps", 1e-2),
            Sample::of([float(&[4]), float(&[4])]).float("eps", 1e-6),
        ],
        "layer_norm" => vec![
            Sample::of([float(&[4]), float(&[4]), float(&[4])]).float("eps", 1e-5),
            Sample::of([float(&[2, 33]), float(&[33]), float(&[33])]).float("eps", 1e-5),
        ],
        "flatten" => vec![
            one(&[1, 1]).ints("dims", &[0, 1]),
            one(&[2, 0, 3]).ints("dims", &[0, 2]),
            one(&[2, 3]).ints("dims", &[1, 1]),
        ],
        "transpose" => vec![
            one(&[1, 1]).ints("dims", &[0, 1]),
            one(&[1, 3]).ints("dims", &[0, 1]),
            one(&[0, 2]).ints("dims", &[1, 0]),
        ],
        "t" => vec![one(&[1, 1]), one(&[0, 3])],
        "permute" => vec![
            one(&[1, 2, 1]).ints("dims", &[-1, 0, 1]),
            one(&[2, 0]).ints("dims", &[1, 0]),
            one(&[]).ints("dims", &[]),
        ],
        "reshape" => {
            vec![one(&[2, 3]).ints("shape", &[2, 1, 3, 1]), one(&[]).ints("shape", &[1, 1])]
        }
        "narrow" => vec![
            one(&[1]).ints("dim", &[0]).ints("range", &[0, 1]),
            one(&[0, 2]).ints("dim", &[-1]).ints("range", &[1, 1]),
        ],
        "slice" => vec![
            one(&[1]).ints("dim", &[0]).ints("range", &[0, 1, 1]),
            one(&[5]).ints("dim", &[0]).ints("range", &[1, 4, 9]),
            one(&[5]).ints("dim", &[0]).ints("range", &[3, 3, 2]),
            one(&[0, 5]).ints("dim", &[1]).ints("range", &[0, 5, 2]),
        ],
        "select" => vec![
            one(&[1]).ints("dim", &[0]).ints("index", &[0]),
            one(&[2, 0]).ints("dim", &[0]).ints("index", &[1]),
        ],
        "expand" => vec![one(&[1]).ints("shape", &[1]), one(&[1, 0]).ints("shape", &[3, 0])],
        "squeeze" => vec![one(&[1]).ints("dim", &[0]), one(&[0, 1]).ints("dim", &[-1])],
        "unsqueeze" => vec![one(&[]).ints("dim", &[0]), one(&[0, 1]).ints("dim", &[0])],
        "split" => vec![
            one(&[1]).ints("size", &[3]).ints("dim", &[0]),
            one(&[0, 2]).ints("size", &[1]).ints("dim", &[0]),
            one(&[0, 4]).ints("size", &[2]).ints("dim", &[1]),
        ],
        "chunk" => vec![
            one(&[1]).ints("n", &[1]).ints("dim", &[0]),
            one(&[0, 2]).ints("n", &[2]).ints("dim", &[0]),
            one(&[5]).ints("n", &[3]).ints("dim", &[0]),
        ],
        "cat" => vec![
            Sample::of([float(&[1, 1]), float(&[1, 1])]).ints("dim", &[1]),
            Sample::of([float(&[0, 2]), float(&[0, 2])]).ints("dim", &[0]),
        ],
        "stack" => vec![Sample::of([float(&[0]), float(&[0])]).ints("dim", &[-1])],
        "to_dtype" | "contiguous" | "to_device" => vec![one(&[1, 1]), one(&[0, 2])],
        "index_select" => vec![
            Sample::of([float(&[1]), Input::exactly(2, &[0, 0])]).ints("dim", &[0]),
            Sample::of([float(&[0, 3]), Input::ids(2, 3)]).ints("dim", &[1]),
            Sample::of([float(&[3, 17]), Input::ids(4, 3)]).ints("dim", &[0]),
        ],
        "gather" => vec![
            Sample::of([float(&[1, 1]), Input::exactly([1, 3], &[0, 0, 0])]).ints("dim", &[1]),
            Sample::of([float(&[0, 2]), Input::exactly([0, 1], &[])]).ints("dim", &[1]),
            Sample::of([float(&[2, 3, 4]), Input::ids([2, 2, 4], 3)]).ints("dim", &[1]),
        ],
        "scatter_add" => vec![
            Sample::of([float(&[1]), Input::exactly(3, &[0, 0, 0]), float(&[3])]).ints("dim", &[0]),
            Sample::of([float(&[0, 2]), Input::exactly([0, 1], &[]), float(&[0, 1])])
                .ints("dim", &[1]),
            Sample::of([float(&[2, 3, 4]), Input::ids([2, 2, 4], 3), float(&[2, 2, 4])])
                .ints("dim", &[1]),
        ],
        "dropout" => {
            [&[1][..], &[0], &[], &[5, 7]].map(|s| one(s).float("p", 0.5).ints("seed", &[4])).into()
        }
        "embedding" => vec![Sample::of([float(&[5, 1]), Input::exactly([4], &[4, 4, 0, 4])])],
        "cross_entropy" => vec![
            Sample::of([float(&[3]), Input::exactly((), &[1])]),
            Sample::of([float(&[0, 3]), Input::exactly([0], &[])]).ints("reduction", &[1]),
            // Every row ignored: the sum of nothing.
            Sample::of([float(&[2, 3]), Input::exactly([2], &[1, 1])])
                .ints("ignore_index", &[1])
                .ints("reduction", &[1]),
            Sample::of([float(&[2, 3]), Input::exactly([2], &[9, 1])]).ints("ignore_index", &[9]),
        ],
        "linear_cross_entropy" => vec![
            Sample::of([float(&[0, 2]), Input::exactly([0], &[]), float(&[3, 2]), float(&[3])])
                .ints("reduction", &[1]),
            Sample::of([float(&[2, 3]), Input::exactly([2], &[9, 1]), float(&[4, 3])])
                .ints("ignore_index", &[9]),
        ],
        "binary_cross_entropy_with_logits" => vec![
            Sample::of([float(&[1]), Input::float([1], 0.0, 1.0)]),
            Sample::of([float(&[]), Input::float((), 0.0, 1.0)]),
            Sample::of([float(&[0, 3]), Input::float([0, 3], 0.0, 1.0)]),
            Sample::of([float(&[2, 37]), Input::float([2, 37], 0.0, 1.0), positive(&[37])]),
        ],
        "matmul" => vec![
            Sample::of([float(&[1, 1]), float(&[1, 1])]),
            Sample::of([float(&[2, 3, 4]), float(&[1, 4, 1])]),
            Sample::of([float(&[4]), float(&[4, 3])]),
            Sample::of([float(&[3, 4]), float(&[4])]),
            Sample::of([float(&[1, 3, 2]), float(&[2, 2, 2])]),
            Sample::of([float(&[3, 2]), float(&[2, 2, 2])]),
            Sample::of([float(&[0, 2, 3]), float(&[3, 2])]),
            Sample::of([float(&[2, 0, 3]), float(&[2, 3, 2])]),
            Sample::of([float(&[7, 19]), float(&[19, 5])]),
        ],
        "linear" => vec![
            Sample::of([float(&[1, 1]), float(&[1, 1])]),
            Sample::of([float(&[3, 18]), float(&[17, 18]), float(&[17])]),
            Sample::of([float(&[3, 2]), float(&[0, 2]), float(&[0])]),
        ],
        "linear_add" => vec![
            Sample::of([float(&[1, 1]), float(&[1, 1]), float(&[1, 1])]),
            Sample::of([float(&[3, 18]), float(&[17, 18]), float(&[3, 17]), float(&[17])]),
            Sample::of([float(&[3, 2]), float(&[0, 2]), float(&[3, 0]), float(&[0])]),
        ],
        "linear_gelu" => vec![
            Sample::of([float(&[1, 1]), float(&[1, 1])]).flag("tanh", true),
            Sample::of([float(&[3, 18]), float(&[17, 18]), float(&[17])]).flag("tanh", false),
            Sample::of([float(&[3, 2]), float(&[0, 2]), float(&[0])]).flag("tanh", true),
        ],
        "scaled_dot_product_attention" => {
            let qkv = |b, h, tq, tk, d| {
                [[b, h, tq, d], [b, h, tk, d], [b, h, tk, d]].map(|s: [usize; 4]| float(&s))
            };
            vec![
                Sample::of(qkv(1, 1, 1, 1, 1)),
                Sample::of(qkv(2, 2, 0, 3, 2)),
                Sample::of(qkv(1, 2, 3, 0, 2)),
                Sample::of(qkv(1, 2, 3, 3, 2)).flag("causal", true).float("p", 0.3),
                Sample::of(qkv(1, 1, 2, 19, 2)).flag("causal", true),
            ]
        }
        "self_attention_qkv" => vec![
            one(&[1, 1, 3]).ints("heads", &[1]),
            one(&[0, 2, 6]).ints("heads", &[1]),
            one(&[2, 0, 6]).ints("heads", &[2]),
            one(&[1, 3, 12]).ints("heads", &[2]).flag("causal", true).float("p", 0.3),
        ],
        "rnn_sequence" => recurrent(1, 1, 1, 1, 1).chain(recurrent(2, 0, 3, 1, 1)).collect(),
        "lstm_sequence" => recurrent(1, 1, 1, 4, 2).chain(recurrent(2, 0, 3, 4, 2)).collect(),
        "gru_sequence" => recurrent(1, 1, 1, 3, 1).chain(recurrent(2, 0, 3, 3, 1)).collect(),
        // Their samples in the registry hold sizes 1 and 0 already.
        _ => Vec::new(),
    }
}

/// A recurrent sequence with bias, forward in time and against it.
fn recurrent(
    t: usize,
    b: usize,
    h: usize,
    gates: usize,
    states: usize,
) -> impl Iterator<Item = Sample> {
    let part = |shape: &[usize]| Input::float(shape, -0.4, 0.4);
    let mut inputs = vec![part(&[t, b, gates * h]), part(&[gates * h, h])];
    inputs.extend((0..states).map(|_| part(&[b, h])));
    inputs.push(part(&[gates * h]));
    let sample = Sample::of(inputs);
    [sample.clone(), sample.flag("reverse", true)].into_iter()
}

/// Calls large enough to be cut into chunks and handed to several threads. Views have none: no element
/// moves in them.
pub fn big(name: &str) -> Vec<Sample> {
    let one = |shape: &[usize]| Sample::of([float(shape)]);
    let pos = |shape: &[usize]| Sample::of([positive(shape)]);
    match name {
        "neg" | "exp" | "tanh" | "sigmoid" | "relu" | "gelu" | "gelu_tanh" | "silu" => {
            vec![Sample::of([Input::float([100_003], -6.0, 6.0)])]
        }
        "log" | "sqrt" => vec![pos(&[100_003])],
        "powf" => vec![pos(&[100_003]).float("exponent", 1.7)],
        "add_scalar" | "mul_scalar" => vec![one(&[100_003]).float("value", 1.3)],
        "add" | "sub" | "mul" | "div" | "pow" => vec![
            Sample::of([positive(&[317, 251]), positive(&[317, 251])]),
            Sample::of([positive(&[317, 251]), positive(&[251])]),
            Sample::of([positive(&[317, 1]), positive(&[3, 1, 251])]),
        ],
        "where" => vec![Sample::of([Input::ids([251], 2), float(&[317, 251]), float(&[317, 1])])],
        "masked_fill" => {
            vec![Sample::of([float(&[317, 251]), Input::ids([317, 1], 2)]).float("value", -1.0)]
        }
        "sum" | "mean" => vec![
            pos(&[200_003]),
            pos(&[317, 251]).ints("dims", &[0]),
            pos(&[317, 251]).ints("dims", &[1]),
            pos(&[41, 43, 47]).ints("dims", &[0, 2]),
            pos(&[41, 43, 47]).ints("dims", &[1]),
        ],
        "max" => vec![one(&[317, 251]).ints("dim", &[0]), one(&[317, 251]).ints("dim", &[1])],
        "argmax" => vec![one(&[317, 251]).ints("dim", &[1])],
        "softmax" | "log_softmax" => {
            vec![one(&[317, 251]).ints("dim", &[1]), one(&[41, 43, 47]).ints("dim", &[1])]
        }
        "layer_norm" => vec![
            Sample::of([float(&[1003, 67]), float(&[67]), float(&[67])]).float("eps", 1e-5),
            Sample::of([float(&[37, 1500])]).float("eps", 1e-5),
        ],
        "rms_norm" => vec![Sample::of([float(&[1003, 67]), float(&[67])]).float("eps", 1e-6)],
        "matmul" => vec![
            Sample::of([float(&[131, 300]), float(&[300, 77])]),
            Sample::of([float(&[7, 33, 65]), float(&[7, 65, 34])]),
            Sample::of([float(&[3, 50, 65]), float(&[65, 70])]),
            Sample::of([float(&[2, 1, 33, 65]), float(&[3, 65, 34])]),
        ],
        "linear" => vec![Sample::of([float(&[5, 37, 150]), float(&[201, 150]), float(&[201])])],
        "linear_add" => {
            let (x, w) = (float(&[5, 37, 150]), float(&[201, 150]));
            vec![Sample::of([x, w, float(&[5, 37, 201]), float(&[201])])]
        }
        "linear_gelu" => {
            let inputs = || [float(&[5, 37, 150]), float(&[201, 150]), float(&[201])];
            [true, false].map(|tanh| Sample::of(inputs()).flag("tanh", tanh)).into()
        }
        // The reference tries all paths: many tags or many words, not both.
        "crf" | "viterbi" => [(40, 2, 35), (70, 9, 2)]
            .map(|(b, t, k)| {
                let floats = [float(&[b, t, k]), float(&[k, k]), float(&[k]), float(&[k])];
                let tags = (name == "crf").then(|| Input::ids([b, t], k as u32));
                let lengths: Vec<u32> = (0..b).map(|row| (1 + row % t) as u32).collect();
                Sample::of(floats.into_iter().chain(tags).chain([Input::exactly(b, &lengths)]))
            })
            .into(),
        "cross_entropy" => vec![
            Sample::of([float(&[317, 251]), Input::ids(317, 251)]),
            Sample::of([float(&[317, 251]), Input::ids(317, 251), positive(&[251])])
                .float("label_smoothing", 0.1)
                .ints("ignore_index", &[7]),
            Sample::of([float(&[3, 20_011]), Input::ids(3, 20_011)]).ints("reduction", &[2]),
        ],
        "linear_cross_entropy" => vec![
            Sample::of([float(&[317, 40]), Input::ids(317, 251), float(&[251, 40]), float(&[251])])
                .float("label_smoothing", 0.1)
                .ints("ignore_index", &[7]),
        ],
        "binary_cross_entropy_with_logits" => vec![Sample::of([
            float(&[317, 251]),
            Input::float([317, 251], 0.0, 1.0),
            positive(&[251]),
        ])],
        "embedding" => vec![Sample::of([float(&[211, 65]), Input::ids([31, 67], 211)])],
        "index_select" => vec![
            Sample::of([float(&[211, 165]), Input::ids(503, 211)]).ints("dim", &[0]),
            Sample::of([float(&[53, 37, 41]), Input::ids(29, 37)]).ints("dim", &[1]),
        ],
        "gather" => vec![
            Sample::of([float(&[307, 151]), Input::ids([307, 161], 151)]).ints("dim", &[1]),
            Sample::of([float(&[53, 307]), Input::ids([201, 307], 53)]).ints("dim", &[0]),
        ],
        "scatter_add" => vec![
            Sample::of([float(&[307, 151]), Input::ids([307, 161], 151), float(&[307, 161])])
                .ints("dim", &[1]),
            Sample::of([float(&[53, 307]), Input::ids([201, 307], 53), float(&[201, 307])])
                .ints("dim", &[0]),
        ],
        "dropout" => vec![one(&[100_003]).float("p", 0.3).ints("seed", &[9])],
        "cat" => vec![
            Sample::of([float(&[131, 200]), float(&[131, 203])]).ints("dim", &[1]),
            Sample::of([float(&[131, 200]), float(&[133, 200])]).ints("dim", &[0]),
        ],
        "stack" => vec![Sample::of([float(&[131, 203]), float(&[131, 203])]).ints("dim", &[1])],
        "to_dtype" | "contiguous" | "to_device" => vec![one(&[317, 251])],
        "scaled_dot_product_attention" => {
            let qkv = |b, h, tq, tk, d| {
                [[b, h, tq, d], [b, h, tk, d], [b, h, tk, d]].map(|s: [usize; 4]| float(&s))
            };
            let padding: Vec<u32> =
                (0..2 * 97).map(|i| (i % 97 > 60 + i / 97 * 20) as u32).collect();
            let mut padded = Sample::of(qkv(2, 3, 61, 97, 33));
            padded.inputs.push(Input::exactly([2, 97], &padding));
            vec![
                Sample::of(qkv(2, 3, 150, 150, 33)).flag("causal", true),
                Sample::of(qkv(1, 2, 90, 131, 16)).flag("causal", true).float("p", 0.2),
                padded,
            ]
        }
        "self_attention_qkv" => {
            vec![one(&[2, 150, 3 * 3 * 17]).ints("heads", &[3]).flag("causal", true)]
        }
        "rnn_sequence" => recurrent(13, 37, 69, 1, 1).collect(),
        "lstm_sequence" => recurrent(13, 37, 69, 4, 2).collect(),
        "gru_sequence" => recurrent(13, 37, 69, 3, 1).collect(),
        _ => Vec::new(),
    }
}

/// Operations that only change the layout, so that there is nothing to cut into chunks.
pub const VIEWS: [&str; 13] = [
    "reshape",
    "flatten",
    "transpose",
    "t",
    "permute",
    "narrow",
    "slice",
    "select",
    "expand",
    "squeeze",
    "unsqueeze",
    "split",
    "chunk",
];
