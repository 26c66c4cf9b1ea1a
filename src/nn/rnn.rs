//! Recurrent layers: `torch.nn.RNN`, `LSTM` and `GRU`.
//!
//! One layer in one direction first projects the whole sequence at once, `gx = x W_ihᵀ + b_ih`, and
//! then runs the recurrence of [`crate::ops`] over it. Layers are stacked (each reads the outputs
//! of the one below, with dropout between them); a bidirectional layer runs a second recurrence
//! from the end of the sequence and puts both outputs side by side.
//!
//! # Rows of different length
//!
//! Shorter rows are padded at the end and `lengths` says where they stop. As with PyTorch's packed
//! sequences, outputs past the end are 0, the final state is that of each row's own last step, and
//! the reverse direction starts at it. Three devices do this without a special kernel:
//!
//! - each row is turned around within its own length by an index list, run forwards, and turned
//!   back;
//! - the final h is picked from the outputs at the last step of each row;
//! - an LSTM's final c is not among the outputs. Past the end its gates are set to "forget nothing,
//!   write nothing" (f = σ(10⁴) = 1, i = σ(−10⁴) = 0), so c stands still, exactly, until the last
//!   step.

use smallvec::SmallVec;

use super::{Dropout, Init, Module, Parameter, Visitor};
use crate::autograd::Scope;
use crate::error::{Error, Result};
use crate::ops::{self, Nonlinearity};
use crate::tensor::Tensor;

/// Which recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecurrentKind {
    /// `h' = tanh(W x + U h)`
    RnnTanh,
    /// `h' = relu(W x + U h)`
    RnnRelu,
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
}

impl RecurrentKind {
    /// How many gates a unit has: rows of its matrices are `gates · hidden_size`.
    pub fn gates(self) -> usize {
        match self {
            RecurrentKind::RnnTanh | RecurrentKind::RnnRelu => 1,
            RecurrentKind::Lstm => 4,
            RecurrentKind::Gru => 3,
        }
    }

    /// The name of the model type: `rnn`, `lstm` or `gru`.
    pub fn name(self) -> &'static str {
        match self {
            RecurrentKind::RnnTanh | RecurrentKind::RnnRelu => "rnn",
            RecurrentKind::Lstm => "lstm",
            RecurrentKind::Gru => "gru",
        }
    }
}

/// What the three layers share; defaults are PyTorch's.
#[derive(Clone, Debug)]
pub struct RecurrentOptions {
    /// How many layers are stacked.
    pub num_layers: usize,
    /// Whether there are `bias_ih` and `bias_hh`.
    pub bias: bool,
    /// Tensors are `[B, T, C]`; else `[T, B, C]`.
    pub batch_first: bool,
    /// Dropout on the outputs of each layer but the last.
    pub dropout: f64,
    /// Whether a second recurrence runs from the end.
    pub bidirectional: bool,
}

impl Default for RecurrentOptions {
    fn default() -> Self {
        RecurrentOptions {
            num_layers: 1,
            bias: true,
            batch_first: false,
            dropout: 0.0,
            bidirectional: false,
        }
    }
}

/// The state between two steps of all layers and directions, `[num_layers · directions, B, H]`
/// each; layer by layer, forward before reverse.
#[derive(Clone)]
pub struct RecurrentState {
    /// The hidden state.
    pub h: Tensor,
    /// The cell state of an LSTM.
    pub c: Option<Tensor>,
}

impl RecurrentState {
    /// The same numbers without history: what comes after does not reach what came before.
    pub fn detach(&self) -> RecurrentState {
        RecurrentState { h: self.h.detach(), c: self.c.as_ref().map(Tensor::detach) }
    }

    /// Row i of the batch becomes what row `rows[i]` was.
    ///
    /// # Errors
    /// When a row does not exist.
    pub fn reorder(&self, rows: &Tensor) -> Result<RecurrentState> {
        let pick = |x: &Tensor| x.index_select(1, rows);
        Ok(RecurrentState { h: pick(&self.h)?, c: self.c.as_ref().map(pick).transpose()? })
    }
}

/// The weights of one layer in one direction.
struct Direction {
    weight_ih: Parameter,
    weight_hh: Parameter,
    bias_ih: Option<Parameter>,
    bias_hh: Option<Parameter>,
    reverse: bool,
    scope: Scope,
}

/// The final states of the layers so far.
type States = SmallVec<[Tensor; 4]>;

/// A stack of recurrent layers of any [kind](RecurrentKind). [`Rnn`], [`Lstm`] and [`Gru`] are this
/// with PyTorch's signatures.
pub struct Recurrent {
    kind: RecurrentKind,
    input_size: usize,
    hidden_size: usize,
    options: RecurrentOptions,
    directions: Vec<Direction>,
    dropouts: Vec<Dropout>,
}

impl Recurrent {
    /// Layers with PyTorch's first values: everything uniform in ±1/√hidden_size.
    ///
    /// # Errors
    /// For a size or number of layers of 0, and dropout that is no probability.
    pub fn new(
        at: &Init,
        kind: RecurrentKind,
        input_size: usize,
        hidden_size: usize,
        options: &RecurrentOptions,
    ) -> Result<Recurrent> {
        if input_size == 0 || hidden_size == 0 || options.num_layers == 0 {
            return Err(Error::Usage(format!(
                "a recurrent layer needs at least one input, one hidden unit and one layer, got \
                 {input_size}, {hidden_size} and {}",
                options.num_layers
            )));
        }
        let bound = 1.0 / (hidden_size as f64).sqrt();
        let rows = kind.gates() * hidden_size;
        let ways = if options.bidirectional { 2 } else { 1 };
        let mut directions = Vec::new();
        for layer in 0..options.num_layers {
            let inputs = if layer == 0 { input_size } else { ways * hidden_size };
            for reverse in [false, true].into_iter().take(ways) {
                let suffix = if reverse { "_reverse" } else { "" };
                let name = |what: &str| format!("{what}_l{layer}{suffix}");
                let matrix = |what: &str, cols: usize| {
                    Parameter::new(at.uniform(&name(what), [rows, cols], bound)?)
                };
                let bias = |what: &str| {
                    let values = || Parameter::new(at.uniform(&name(what), rows, bound)?);
                    options.bias.then(values).transpose()
                };
                directions.push(Direction {
                    weight_ih: matrix("weight_ih", inputs)?,
                    weight_hh: matrix("weight_hh", hidden_size)?,
                    bias_ih: bias("bias_ih")?,
                    bias_hh: bias("bias_hh")?,
                    reverse,
                    scope: at.at(format_args!("l{layer}{suffix}")).scope(),
                });
            }
        }
        let dropout =
            |layer| Dropout::new(&at.at(format_args!("dropout_l{layer}")), options.dropout);
        Ok(Recurrent {
            kind,
            input_size,
            hidden_size,
            options: options.clone(),
            directions,
            dropouts: (1..options.num_layers).map(dropout).collect::<Result<_>>()?,
        })
    }

    /// Which recurrence this is.
    pub fn kind(&self) -> RecurrentKind {
        self.kind
    }

    /// Inputs a step.
    pub fn input_size(&self) -> usize {
        self.input_size
    }

    /// Hidden units of one direction.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Outputs a step: `hidden_size`, twice that where bidirectional.
    pub fn output_size(&self) -> usize {
        self.hidden_size * if self.options.bidirectional { 2 } else { 1 }
    }

    /// The options it was made with.
    pub fn options(&self) -> &RecurrentOptions {
        &self.options
    }

    /// A state of zeros for `batch` rows, in the dtype and on the device of the weights.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn zero_state(&self, batch: usize) -> Result<RecurrentState> {
        let shape = [self.directions.len(), batch, self.hidden_size];
        let weight = self.directions[0].weight_hh.data();
        let cell = self.kind == RecurrentKind::Lstm;
        Ok(RecurrentState {
            h: weight.new_full(shape, 0.0)?,
            c: cell.then(|| weight.new_full(shape, 0.0)).transpose()?,
        })
    }

    /// Runs the stack over x `[B, T, input_size]` (or `[T, B, input_size]`, see the options) from
    /// `state` (zeros where `None`). Gives the outputs of the last layer, `[…, output_size]`, and
    /// the state after each row's last step. `lengths` says how many steps of each row count.
    ///
    /// # Errors
    /// When shapes do not fit, or a length is 0 or more than T.
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        state: Option<&RecurrentState>,
        lengths: Option<&[usize]>,
    ) -> Result<(Tensor, RecurrentState)> {
        if x.rank() != 3 || x.shape()[2] != self.input_size {
            return Err(Error::op(
                self.kind.name(),
                format!("x has shape {:?}, expected [B, T, {}]", x.shape(), self.input_size),
            ));
        }
        if !self.options.batch_first {
            return self.forward_time_major(x, state, lengths);
        }
        let (y, state) = self.forward_time_major(&x.transpose(0, 1)?, state, lengths)?;
        Ok((y.transpose(0, 1)?, state))
    }

    /// [`Recurrent::forward`] for `[T, B, …]`, whatever the options say.
    ///
    /// # Errors
    /// As [`Recurrent::forward`].
    #[track_caller]
    pub fn forward_time_major(
        &self,
        x: &Tensor,
        state: Option<&RecurrentState>,
        lengths: Option<&[usize]>,
    ) -> Result<(Tensor, RecurrentState)> {
        let (t, b) = (x.shape()[0], x.shape()[1]);
        let ragged = Ragged::new(lengths, t, b)?;
        let zeros;
        let state = match state {
            Some(state) => {
                self.check_state(state, b)?;
                state
            }
            None => {
                zeros = self.zero_state(b)?;
                &zeros
            }
        };
        let (mut h_n, mut c_n) = (States::new(), States::new());
        let ways = if self.options.bidirectional { 2 } else { 1 };
        let mut input = x.clone();
        for (layer, pair) in self.directions.chunks(ways).enumerate() {
            if layer > 0 {
                input = self.dropouts[layer - 1].forward(&input)?;
            }
            let mut outputs: SmallVec<[Tensor; 2]> = SmallVec::new();
            for (way, direction) in pair.iter().enumerate() {
                let place = layer * ways + way;
                let h0 = state.h.select(0, place)?;
                let c0 = state.c.as_ref().map(|c| c.select(0, place)).transpose()?;
                let (y, h, c) = self.run(direction, &input, &h0, c0.as_ref(), ragged.as_ref())?;
                outputs.push(y);
                h_n.push(h);
                c_n.extend(c);
            }
            input = match outputs.as_slice() {
                [forward, reverse] => ops::cat(&[forward, reverse], -1)?,
                _ => outputs.remove(0),
            };
        }
        let stacked = |list: &States| {
            let list: SmallVec<[&Tensor; 4]> = list.iter().collect();
            ops::stack(&list, 0)
        };
        let c = (!c_n.is_empty()).then(|| stacked(&c_n)).transpose()?;
        Ok((input, RecurrentState { h: stacked(&h_n)?, c }))
    }

    #[track_caller]
    fn check_state(&self, state: &RecurrentState, b: usize) -> Result<()> {
        let expected = [self.directions.len(), b, self.hidden_size];
        let cell = self.kind == RecurrentKind::Lstm;
        let wrong = |x: &Tensor| x.shape() != expected;
        if wrong(&state.h) || state.c.as_ref().is_some_and(wrong) || state.c.is_some() != cell {
            return Err(Error::op(
                self.kind.name(),
                format!(
                    "the initial state has h {:?} and c {:?}; expected {expected:?}, with c for an LSTM only",
                    state.h.shape(),
                    state.c.as_ref().map(|c| c.shape().to_vec())
                ),
            ));
        }
        Ok(())
    }

    /// One layer in one direction over x `[T, B, in]`: outputs `[T, B, H]`, h and c after the last
    /// step.
    fn run(
        &self,
        direction: &Direction,
        x: &Tensor,
        h0: &Tensor,
        c0: Option<&Tensor>,
        ragged: Option<&Ragged>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let _scope = direction.scope.enter();
        let bias = |b: &Option<Parameter>| b.as_ref().map(Parameter::tensor);
        let gx = ops::linear(x, &direction.weight_ih.tensor(), bias(&direction.bias_ih).as_ref())?;
        let (w_hh, b_hh) = (direction.weight_hh.tensor(), bias(&direction.bias_hh));
        let step =
            |gx: &Tensor, reverse: bool| self.recur(gx, &w_hh, b_hh.as_ref(), h0, c0, reverse);
        let Some(ragged) = ragged else {
            return step(&gx, direction.reverse);
        };
        let mut gx = if direction.reverse { ragged.turn(&gx)? } else { gx };
        if self.kind == RecurrentKind::Lstm {
            gx = ops::where_(&ragged.past_end, &self.standing_still(&gx)?, &gx)?;
        }
        let (y, _, c) = step(&gx, false)?;
        let h = ragged.last_steps(&y)?;
        let y = if direction.reverse { ragged.turn(&y)? } else { y };
        Ok((y.masked_fill(&ragged.past_end, 0.0)?, h, c))
    }

    fn recur(
        &self,
        gx: &Tensor,
        w_hh: &Tensor,
        b_hh: Option<&Tensor>,
        h0: &Tensor,
        c0: Option<&Tensor>,
        reverse: bool,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let rnn = |nonlinearity| ops::rnn_sequence(gx, w_hh, b_hh, h0, nonlinearity, reverse);
        let (y, h) = match self.kind {
            RecurrentKind::RnnTanh => rnn(Nonlinearity::Tanh)?,
            RecurrentKind::RnnRelu => rnn(Nonlinearity::Relu)?,
            RecurrentKind::Gru => ops::gru_sequence(gx, w_hh, b_hh, h0, reverse)?,
            RecurrentKind::Lstm => {
                let c0 = c0.ok_or_else(|| Error::op("lstm", "the state has no c"))?;
                let (y, h, c) = ops::lstm_sequence(gx, w_hh, b_hh, h0, c0, reverse)?;
                return Ok((y, h, Some(c)));
            }
        };
        Ok((y, h, None))
    }

    /// Gate inputs `[4·H]` under which an LSTM's c does not move: i = 0, f = 1.
    fn standing_still(&self, gx: &Tensor) -> Result<Tensor> {
        let h = self.hidden_size;
        let mut gates = vec![0.0f32; 4 * h];
        gates[..h].fill(-1e4);
        gates[h..2 * h].fill(1e4);
        Tensor::from_slice(&gates, 4 * h)?.to_dtype(gx.dtype())?.to_device(gx.device())
    }
}

impl Module for Recurrent {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        let ways = if self.options.bidirectional { 2 } else { 1 };
        for (i, direction) in self.directions.iter().enumerate() {
            let (layer, suffix) = (i / ways, if direction.reverse { "_reverse" } else { "" });
            v.parameter(format_args!("weight_ih_l{layer}{suffix}"), &direction.weight_ih);
            v.parameter(format_args!("weight_hh_l{layer}{suffix}"), &direction.weight_hh);
            v.option(format_args!("bias_ih_l{layer}{suffix}"), &direction.bias_ih);
            v.option(format_args!("bias_hh_l{layer}{suffix}"), &direction.bias_hh);
        }
    }
}

/// The index lists for rows of different length.
struct Ragged {
    steps: usize,
    batch: usize,
    /// `[T·B]`: for each step of each row where the turned-around row has it.
    turned: Tensor,
    /// `[B]`: the last step of each row.
    last: Tensor,
    /// `[T, B, 1]`: 1 past the end of a row.
    past_end: Tensor,
}

impl Ragged {
    /// `None` where all rows are full.
    #[track_caller]
    fn new(lengths: Option<&[usize]>, t: usize, b: usize) -> Result<Option<Ragged>> {
        let Some(lengths) = lengths else { return Ok(None) };
        if lengths.len() != b || lengths.iter().any(|&n| n == 0 || n > t) {
            return Err(Error::op(
                "lengths",
                format!("{lengths:?} are not {b} lengths from 1 to {t}, one for each row"),
            ));
        }
        if lengths.iter().all(|&n| n == t) {
            return Ok(None);
        }
        let mut turned = Vec::with_capacity(t * b);
        let mut past_end = Vec::with_capacity(t * b);
        for step in 0..t {
            for (row, &n) in lengths.iter().enumerate() {
                let from = if step < n { n - 1 - step } else { step };
                turned.push((from * b + row) as u32);
                past_end.push(u32::from(step >= n));
            }
        }
        let last: Vec<u32> =
            lengths.iter().enumerate().map(|(row, &n)| ((n - 1) * b + row) as u32).collect();
        Ok(Some(Ragged {
            steps: t,
            batch: b,
            turned: Tensor::from_slice(&turned, t * b)?,
            last: Tensor::from_slice(&last, b)?,
            past_end: Tensor::from_slice(&past_end, [t, b, 1])?,
        }))
    }

    /// Each row of x `[T, B, C]` turned around within its length. Twice gives x back.
    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.shape()[2];
        let rows = x.reshape([self.steps * self.batch, width])?;
        rows.index_select(0, &self.turned)?.reshape([self.steps, self.batch, width])
    }

    /// The last step of each row of x `[T, B, C]`: `[B, C]`.
    fn last_steps(&self, x: &Tensor) -> Result<Tensor> {
        x.reshape([self.steps * self.batch, x.shape()[2]])?.index_select(0, &self.last)
    }
}

/// `torch.nn.RNN`.
pub struct Rnn(Recurrent);

impl Rnn {
    /// Layers with PyTorch's first values.
    ///
    /// # Errors
    /// As [`Recurrent::new`].
    pub fn new(
        at: &Init,
        input_size: usize,
        hidden_size: usize,
        nonlinearity: Nonlinearity,
        options: &RecurrentOptions,
    ) -> Result<Rnn> {
        let kind = match nonlinearity {
            Nonlinearity::Relu => RecurrentKind::RnnRelu,
            _ => RecurrentKind::RnnTanh,
        };
        Recurrent::new(at, kind, input_size, hidden_size, options).map(Rnn)
    }

    /// `(output, h_n)`; see [`Recurrent::forward`]. `h0` is `[num_layers · directions, B, H]`.
    ///
    /// # Errors
    /// As [`Recurrent::forward`].
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        h0: Option<&Tensor>,
        lengths: Option<&[usize]>,
    ) -> Result<(Tensor, Tensor)> {
        let state = h0.map(|h| RecurrentState { h: h.clone(), c: None });
        let (y, state) = self.0.forward(x, state.as_ref(), lengths)?;
        Ok((y, state.h))
    }
}

/// `torch.nn.GRU`.
pub struct Gru(Recurrent);

impl Gru {
    /// Layers with PyTorch's first values.
    ///
    /// # Errors
    /// As [`Recurrent::new`].
    pub fn new(
        at: &Init,
        input_size: usize,
        hidden_size: usize,
        options: &RecurrentOptions,
    ) -> Result<Gru> {
        Recurrent::new(at, RecurrentKind::Gru, input_size, hidden_size, options).map(Gru)
    }

    /// `(output, h_n)`; see [`Recurrent::forward`]. `h0` is `[num_layers · directions, B, H]`.
    ///
    /// # Errors
    /// As [`Recurrent::forward`].
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        h0: Option<&Tensor>,
        lengths: Option<&[usize]>,
    ) -> Result<(Tensor, Tensor)> {
        let state = h0.map(|h| RecurrentState { h: h.clone(), c: None });
        let (y, state) = self.0.forward(x, state.as_ref(), lengths)?;
        Ok((y, state.h))
    }
}

/// `torch.nn.LSTM`.
pub struct Lstm(Recurrent);

impl Lstm {
    /// Layers with PyTorch's first values.
    ///
    /// # Errors
    /// As [`Recurrent::new`].
    pub fn new(
        at: &Init,
        input_size: usize,
        hidden_size: usize,
        options: &RecurrentOptions,
    ) -> Result<Lstm> {
        Recurrent::new(at, RecurrentKind::Lstm, input_size, hidden_size, options).map(Lstm)
    }

    /// `(output, (h_n, c_n))`; see [`Recurrent::forward`]. The states are `[num_layers ·
    /// directions, B, H]`.
    ///
    /// # Errors
    /// As [`Recurrent::forward`].
    #[track_caller]
    pub fn forward(
        &self,
        x: &Tensor,
        state: Option<(&Tensor, &Tensor)>,
        lengths: Option<&[usize]>,
    ) -> Result<(Tensor, (Tensor, Tensor))> {
        let state = state.map(|(h, c)| RecurrentState { h: h.clone(), c: Some(c.clone()) });
        let (y, state) = self.0.forward(x, state.as_ref(), lengths)?;
        let c = state.c.ok_or_else(|| Error::op("lstm", "the state has no c"))?;
        Ok((y, (state.h, c)))
    }
}

impl Module for Rnn {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.0.visit(v);
    }
}

impl Module for Gru {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.0.visit(v);
    }
}

impl Module for Lstm {
    fn visit<'a>(&'a self, v: &mut Visitor<'a, '_>) {
        self.0.visit(v);
    }
}
