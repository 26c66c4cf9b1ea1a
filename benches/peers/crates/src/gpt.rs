//! A GPT in candle, as its own examples write one: attention by matmul and softmax, tied head.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use candle_nn::{
    AdamW, Embedding, LayerNorm, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap,
    embedding, layer_norm, linear, loss,
};

struct Block {
    heads: usize,
    ln_1: LayerNorm,
    c_attn: Linear,
    attn_proj: Linear,
    ln_2: LayerNorm,
    c_fc: Linear,
    mlp_proj: Linear,
}

impl Block {
    fn new(width: usize, heads: usize, at: VarBuilder) -> Result<Block> {
        Ok(Block {
            heads,
            ln_1: layer_norm(width, 1e-5, at.pp("ln_1"))?,
            c_attn: linear(width, 3 * width, at.pp("c_attn"))?,
            attn_proj: linear(width, width, at.pp("attn_proj"))?,
            ln_2: layer_norm(width, 1e-5, at.pp("ln_2"))?,
            c_fc: linear(width, 4 * width, at.pp("c_fc"))?,
            mlp_proj: linear(4 * width, width, at.pp("mlp_proj"))?,
        })
    }

    fn forward(&self, x: &Tensor, hidden: &Tensor) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let qkv = self.c_attn.forward(&self.ln_1.forward(x)?)?;
        let part = |i: usize| {
            qkv.narrow(D::Minus1, i * c, c)?
                .reshape((b, t, self.heads, c / self.heads))?
                .transpose(1, 2)?
                .contiguous()
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scale = 1.0 / ((c / self.heads) as f64).sqrt();
        let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(hidden)?;
        // The fused softmax has no gradient; this is what candle's training examples use.
        let y = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        let y = y.transpose(1, 2)?.reshape((b, t, c))?;
        let x = (x + self.attn_proj.forward(&y)?)?;
        let inner = self.c_fc.forward(&self.ln_2.forward(&x)?)?.gelu()?;
        x + self.mlp_proj.forward(&inner)?
    }
}

struct Gpt {
    wte: Embedding,
    wpe: Embedding,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    hidden: Tensor,
}

impl Gpt {
    fn loss(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let t = ids.dim(1)?;
        let mut x = self.wte.forward(ids)?.broadcast_add(&self.wpe.embeddings().i(..t)?)?;
        for block in &self.blocks {
            x = block.forward(&x, &self.hidden)?;
        }
        let x = self.ln_f.forward(&x)?.flatten_to(1)?;
        let logits = x.matmul(&self.wte.embeddings().t()?)?;
        loss::cross_entropy(&logits, &targets.flatten_all()?)
    }
}

/// Vocabulary, context, layers, heads, width, batch.
const MODELS: [(&str, [usize; 6]); 4] = [
    ("char-cpu", [65, 64, 4, 4, 128, 12]),
    ("char-gpu", [65, 256, 6, 6, 384, 16]),
    ("bpe-small", [4096, 256, 6, 6, 384, 8]),
    ("gpt2-124m", [50257, 64, 12, 12, 768, 4]),
];

/// Rows of training steps: forward, backward, clipping by the global norm, AdamW.
pub fn train(threads: usize) -> Result<()> {
    let device = Device::Cpu;
    for (name, [vocab, context, layers, heads, width, batch]) in MODELS {
        let map = VarMap::new();
        let at = VarBuilder::from_varmap(&map, DType::F32, &device);
        let hidden: Vec<f32> = (0..context * context)
            .map(|i| if i % context > i / context { f32::NEG_INFINITY } else { 0.0 })
            .collect();
        let model = Gpt {
            wte: embedding(vocab, width, at.pp("wte"))?,
            wpe: embedding(context, width, at.pp("wpe"))?,
            blocks: (0..layers)
                .map(|i| Block::new(width, heads, at.pp(format!("h.{i}"))))
                .collect::<Result<_>>()?,
            ln_f: layer_norm(width, 1e-5, at.pp("ln_f"))?,
            hidden: Tensor::from_vec(hidden, (context, context), &device)?,
        };
        let ids = |seed: usize| {
            let ids = (0..batch * context).map(|i| ((i * 7919 + seed) % vocab) as u32);
            Tensor::from_vec(ids.collect::<Vec<u32>>(), (batch, context), &device)
        };
        let (ids, targets) = (ids(1)?, ids(2)?);
        let vars = map.all_vars();
        let n: usize = vars.iter().map(|var| var.elem_count()).sum();
        let params = ParamsAdamW { lr: 1e-3, weight_decay: 0.01, ..ParamsAdamW::default() };
        let mut adamw = AdamW::new(vars.clone(), params)?;
        let tokens = (batch * context) as f64;
        let flops = 6.0 * tokens * (n + layers * context * width) as f64;
        let mut step = || -> Result<()> {
            let mut gradients = model.loss(&ids, &targets)?.backward()?;
            let mut squares = 0.0;
            for var in &vars {
                if let Some(gradient) = gradients.get(var) {
                    squares += gradient.sqr()?.sum_all()?.to_scalar::<f32>()? as f64;
                }
            }
            let factor = (1.0 / (squares.sqrt() + 1e-6)).min(1.0);
            for var in &vars {
                if let Some(gradient) = gradients.get(var) {
                    let clipped = (gradient * factor)?;
                    gradients.insert(var, clipped);
                }
            }
            adamw.step(&gradients)
        };
        crate::row("candle", "train_step", name, threads, flops, Some(tokens), || {
            step().expect("a step");
        });
    }
    Ok(())
}
