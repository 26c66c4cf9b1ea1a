//! Flags that several commands share. Each field is a key of a configuration in `train/`; a flag that
//! is not given is not a key, so that the defaults are written down there alone.

use serde::Serialize;

use super::values::{count, count_or_zero, fraction, not_negative, positive};

/// How to train: steps, batch, optimiser, schedule, evaluation, checkpoints.
#[derive(Clone, Debug, Default, Serialize, clap::Args)]
pub struct TrainerFlags {
    /// Optimiser steps
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Length")]
    pub max_steps: Option<usize>,
    /// Passes over the training data, instead of steps
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Length")]
    #[arg(visible_alias = "num-train-epochs")]
    pub epochs: Option<f64>,
    /// Wall-clock time instead of steps: 90s, 10m, 2h; the schedule follows the clock
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Length")]
    pub budget: Option<String>,
    /// Stop after this many evaluations without progress; 0: never
    #[arg(long, value_name = "N", value_parser = count_or_zero, help_heading = "Length")]
    pub early_stopping_patience: Option<usize>,

    /// Sequences of one batch
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Optimisation")]
    pub batch_size: Option<usize>,
    /// Batches whose gradients make one step
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Optimisation")]
    pub gradient_accumulation_steps: Option<usize>,
    /// adamw or sgd
    #[arg(long, value_name = "NAME", value_parser = ["adamw", "sgd"], hide_possible_values = true)]
    #[arg(help_heading = "Optimisation")]
    pub optimizer: Option<String>,
    /// The peak learning rate
    #[arg(long, value_name = "RATE", value_parser = positive, allow_negative_numbers = true)]
    #[arg(help_heading = "Optimisation")]
    pub learning_rate: Option<f64>,
    /// Where the learning rate ends
    #[arg(long, value_name = "RATE", value_parser = not_negative, allow_negative_numbers = true)]
    #[arg(help_heading = "Optimisation")]
    pub min_learning_rate: Option<f64>,
    /// constant, linear, cosine, wsd (warm-up, stable, decay) or slanted_triangular (needs no warm-up)
    #[arg(long, value_name = "NAME", help_heading = "Optimisation")]
    pub lr_scheduler: Option<String>,
    /// Steps of linear warm-up; below 1 a share of all steps
    #[arg(long, value_name = "N", value_parser = not_negative, allow_negative_numbers = true)]
    #[arg(help_heading = "Optimisation")]
    pub warmup_steps: Option<f64>,
    /// Decoupled weight decay, on matrices only
    #[arg(long, value_name = "X", value_parser = not_negative, allow_negative_numbers = true)]
    #[arg(help_heading = "Optimisation")]
    pub weight_decay: Option<f64>,
    /// AdamW: decay of the first moment
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Optimisation")]
    #[arg(allow_negative_numbers = true)]
    pub adam_beta1: Option<f64>,
    /// AdamW: decay of the second moment
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Optimisation")]
    #[arg(allow_negative_numbers = true)]
    pub adam_beta2: Option<f64>,
    /// AdamW: what keeps the division safe
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Optimisation")]
    #[arg(allow_negative_numbers = true)]
    pub adam_epsilon: Option<f64>,
    /// SGD: momentum
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Optimisation")]
    #[arg(allow_negative_numbers = true)]
    pub momentum: Option<f64>,
    /// Clip the norm of the whole gradient to this; 0: do not
    #[arg(long, value_name = "X", value_parser = not_negative, allow_negative_numbers = true)]
    #[arg(help_heading = "Optimisation")]
    pub max_grad_norm: Option<f64>,
    /// The share of each target that goes to all classes alike
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Optimisation")]
    #[arg(allow_negative_numbers = true)]
    pub label_smoothing: Option<f64>,
    /// Evaluate, and keep as best, a moving average of the weights with this decay, such as 0.999
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Optimisation")]
    #[arg(allow_negative_numbers = true)]
    pub ema_decay: Option<f64>,

    /// Steps from one evaluation to the next; 0: only at the end
    #[arg(long, value_name = "N", value_parser = count_or_zero, help_heading = "Run")]
    pub eval_steps: Option<usize>,
    /// Steps from one checkpoint to the next; 0: only at the end
    #[arg(long, value_name = "N", value_parser = count_or_zero, help_heading = "Run")]
    pub save_steps: Option<usize>,
    /// Checkpoints to keep, the newest ones; 0 keeps all
    #[arg(long, value_name = "N", value_parser = count_or_zero, help_heading = "Run")]
    pub save_total_limit: Option<usize>,
    /// Steps from one line of metrics.jsonl to the next
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Run")]
    pub logging_steps: Option<usize>,
    /// f32, or bf16: matrix products of numbers rounded to bf16, where the processor has them; the
    /// weights stay f32 [default: f32]
    #[arg(long, value_name = "FORMAT", value_parser = ["f32", "bf16"], help_heading = "Optimisation")]
    #[arg(hide_possible_values = true)]
    pub precision: Option<String>,
    /// How exact f32 matrix products are: highest, high or medium [default: highest]
    #[arg(long, value_name = "LEVEL", value_parser = ["highest", "high", "medium"])]
    #[arg(hide_possible_values = true, help_heading = "Optimisation")]
    pub matmul_precision: Option<String>,
    /// The seed of weights, data order and dropout
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub seed: Option<u64>,
    /// Threads; the bits of the result do not depend on it [default: one a core]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Run")]
    pub threads: Option<usize>,
    /// Where to compute: cpu, cuda or cuda:N [default: cpu]
    #[arg(long, value_name = "DEVICE", value_parser = device, help_heading = "Run")]
    pub device: Option<String>,
    /// When a loss or gradient is not finite: stop, skip or rollback
    #[arg(long, value_name = "WHAT", value_parser = ["stop", "skip", "rollback"], help_heading = "Run")]
    #[arg(hide_possible_values = true)]
    pub on_nonfinite: Option<String>,
}

/// A time, kept as it was typed: the configuration reads it.
pub fn time(text: &str) -> Result<String, String> {
    crate::train::config::parse_seconds(text)
        .map(|_| text.to_owned())
        .map_err(|_| "must be a time such as 90s, 10m or 1.5h".into())
}

/// A device, kept as it was typed: the configuration reads it.
pub fn device(text: &str) -> Result<String, String> {
    text.parse::<crate::Device>().map(|_| text.to_owned())
}

/// Which model to build.
#[derive(Clone, Debug, Default, Serialize, clap::Args)]
pub struct ModelFlags {
    /// gpt, bert, rnn, lstm or gru [default: gpt]
    #[arg(long, value_name = "NAME", value_parser = ["gpt", "bert", "rnn", "lstm", "gru"])]
    #[arg(hide_possible_values = true, help_heading = "Model")]
    pub model: Option<String>,
    /// nano, tiny, mini or small; bert and recurrent models: medium; bert: base; gpt: gpt2 (124M) [default: nano]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub size: Option<String>,
    /// Layers, instead of the size's
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Model")]
    pub num_hidden_layers: Option<usize>,
    /// Attention heads, instead of the size's; they divide the width
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Model")]
    pub num_attention_heads: Option<usize>,
    /// Width, instead of the size's
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Model")]
    pub hidden_size: Option<usize>,
    /// Dropout, everywhere that the model has it
    #[arg(long, value_name = "X", value_parser = fraction, help_heading = "Model")]
    #[arg(allow_negative_numbers = true)]
    pub dropout: Option<f64>,
}

/// Where the columns of label files are.
#[derive(Clone, Debug, Default, Serialize, clap::Args)]
pub struct ColumnFlags {
    /// The column of the text: a name in the header, or a number from 1 [default: found out]
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub text_column: Option<String>,
    /// The column of a second text, for tasks on pairs
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub text_pair_column: Option<String>,
    /// The column of the label [default: found out]
    #[arg(long, value_name = "COLUMN", help_heading = "Data")]
    pub label_column: Option<String>,
    /// csv, tsv, jsonl or label_text (the label, a space, the text) [default: found out]
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub format: Option<String>,
    /// utf8 or latin1
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub encoding: Option<String>,
}
