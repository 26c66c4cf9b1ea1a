//! The loop.
//!
//! One step: for each micro-batch forward and backward, then the global norm, the clipping factor and
//! the optimiser; the gradients of micro-batches add up weighted by what each averages over. Between
//! steps: the log, the checkpoint, the evaluation, in this order, so that an evaluation which runs
//! out of memory loses nothing.
//!
//! Everything that decides about the next step is in [`State`], the weights, the moments and what the
//! task carries. A checkpoint holds exactly these, so a resumed run is the same run.
//!
//! The whole loop runs inside one thread pool: entering a pool from outside costs some microseconds, and
//! a small model has a hundred kernels a step.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod files;
#[cfg(feature = "cuda")]
mod recorded;
mod step;

use super::average::WeightAverage;
use super::checkpoint::RunFolder;
use super::config::{OptimizerKind, TrainerConfig};
use super::control::{Control, in_pool};
use super::data::Cursor;
use super::observer::{Ending, EvalRecord, Figures, Header, MemoryEstimate, TrainReport};
use super::optim::{Algorithm, Optimizer};
use super::schedule::{Horizon, Schedule, Scheduler};
use super::spikes::Window;
use super::tasks::Task;
use crate::error::{Error, Result};
use crate::nn::Module;

/// Where a run is. Saved as `trainer_state.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Micro-batches done: the training position that dropout depends on.
    pub micro: u64,
    /// The next micro-batch.
    pub cursor: Cursor,
    /// Seconds of training.
    pub elapsed: f64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Steps skipped because of numbers that are not finite.
    pub skipped: u64,
    /// How many of them were the last ones in a row.
    pub skipped_in_row: u32,
    /// How often the run went back to a checkpoint.
    pub rollbacks: u32,
    /// Step and value of the best evaluation.
    pub best: Option<(u64, f64)>,
    /// Evaluations in a row without a new best one.
    pub without_progress: u32,
    /// The step of the last evaluation.
    pub evaluated_at: Option<u64>,
    /// Sum and number of the losses since the last line of the log.
    pub pending_loss: (f64, u32),
    /// Tokens a second, smoothed, and the weight that the smoothing has collected.
    pub speed: (f64, f64),
}

/// Trains a task.
pub struct Trainer<'a, 'c> {
    config: TrainerConfig,
    task: &'a mut dyn Task,
    control: &'a mut Control<'c>,
    optimizer: Optimizer,
    /// The moving average of the weights, where there is one.
    average: Option<WeightAverage>,
    schedule: Schedule,
    state: State,
    run: Option<RunFolder>,
    /// The configuration of the whole command, kept in each checkpoint.
    command: Map<String, Value>,
    resume_hint: String,
    resumed_from: Option<u64>,
    saved_at: Option<u64>,
    /// The clock's reading at which `state.elapsed` would have been 0.
    zero: f64,
    checked: bool,
    epoch_begun: Option<u64>,
    last_eval: Option<Figures>,
    /// The recent losses and gradient norms.
    recent: [Window; 2],
    /// The step as a GPU does it whole.
    #[cfg(feature = "cuda")]
    recorded: recorded::Recorded,
}

impl<'a, 'c> Trainer<'a, 'c> {
    /// A trainer at step 0 that writes no files.
    ///
    /// # Errors
    /// [`Error::Usage`] when the configuration makes no sense.
    pub fn new(
        config: &TrainerConfig,
        task: &'a mut dyn Task,
        control: &'a mut Control<'c>,
    ) -> Result<Trainer<'a, 'c>> {
        config.validate()?;
        let algorithm = match config.optimizer {
            OptimizerKind::AdamW => Algorithm::AdamW {
                beta1: config.adam_beta1,
                beta2: config.adam_beta2,
                eps: config.adam_epsilon,
            },
            OptimizerKind::Sgd => {
                Algorithm::Sgd { momentum: config.momentum, nesterov: config.nesterov }
            }
        };
        task.module().to_device(config.device)?;
        let optimizer = Optimizer::new(algorithm, task.module(), config.weight_decay, |name| {
            task.lr_scale(name)
        });
        let average = match config.ema_decay {
            0.0 => None,
            decay => Some(WeightAverage::new(task.module(), decay)?),
        };
        let schedule = schedule(config, task.batches_per_epoch());
        let zero = control.now();
        Ok(Trainer {
            config: config.clone(),
            task,
            control,
            optimizer,
            average,
            schedule,
            state: State::default(),
            run: None,
            command: Map::new(),
            resume_hint: String::new(),
            resumed_from: None,
            saved_at: None,
            zero,
            checked: false,
            epoch_begun: None,
            last_eval: None,
            recent: [const { Window::new() }; 2],
            #[cfg(feature = "cuda")]
            recorded: Default::default(),
        })
    }

    /// Lets the run write its log and checkpoints into `run`. `command` is the resolved configuration
    /// of the whole command; `resume_hint` is what the user types to go on after an interruption.
    pub fn with_run(
        mut self,
        run: RunFolder,
        command: Map<String, Value>,
        resume_hint: &str,
    ) -> Trainer<'a, 'c> {
        self.run = Some(run);
        self.command = command;
        self.resume_hint = resume_hint.to_owned();
        self
    }

    /// Gives the run folder back.
    pub fn into_run(self) -> Option<RunFolder> {
        self.run
    }

    /// Where the run is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The optimiser.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The task.
    pub fn task(&self) -> &dyn Task {
        self.task
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when stopped from outside (a checkpoint is saved then),
    /// [`Error::Diverged`] when the numbers went wrong, and what the task or the system say.
    pub fn run(&mut self) -> Result<TrainReport> {
        in_pool(self.config.threads, || self.run_here())?
    }

    /// As [`Trainer::run`], in the thread pool that the caller is in.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run_here(&mut self) -> Result<TrainReport> {
        let header = self.header();
        self.control.observer.header(&header);
        let mut ending = Ending::Complete;
        loop {
            if self.evaluation_is_due() {
                if self.control.stopping() {
                    return self.interrupt();
                }
                self.evaluate()?;
            }
            let patience = self.config.early_stopping_patience;
            if patience > 0 && self.state.without_progress >= patience {
                ending = Ending::EarlyStopping;
                break;
            }
            let elapsed = self.elapsed();
            if self.schedule.horizon.is_over(self.state.step, elapsed) {
                break;
            }
            if self.control.stopping() {
                return self.interrupt();
            }
            let record = self.step()?;
            self.log_step(&record)?;
            if due(self.config.save_steps, self.state.step) {
                self.save()?;
            }
        }
        if self.state.evaluated_at != Some(self.state.step) {
            self.save()?;
            self.evaluate()?;
        }
        self.save()?;
        if self.state.best.is_none() {
            self.averaged(Trainer::save_best)?;
        }
        let report = TrainReport {
            steps: self.state.step,
            elapsed_s: self.elapsed(),
            tokens: self.state.tokens,
            skipped: self.state.skipped,
            metric: self.task.metric().name,
            best: self.state.best,
            last: self.last_eval.clone(),
            ending,
            out: self.run.as_ref().map(|run| run.dir().to_owned()),
        };
        self.control.observer.finished(&report);
        Ok(report)
    }

    fn elapsed(&mut self) -> f64 {
        self.state.elapsed = self.control.now() - self.zero;
        self.state.elapsed
    }

    fn evaluation_is_due(&self) -> bool {
        due(self.config.eval_steps, self.state.step)
            && self.state.evaluated_at != Some(self.state.step)
    }

    /// Does something with the average in the place of the weights, where there is an average.
    fn averaged(&mut self, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if let Some(average) = &mut self.average {
            average.exchange(self.task.module())?;
        }
        let result = f(self);
        if let Some(average) = &mut self.average {
            average.exchange(self.task.module())?;
        }
        result
    }

    /// Evaluates on the whole validation set and keeps the best.
    fn evaluate(&mut self) -> Result<()> {
        self.averaged(Trainer::evaluate_here)
    }

    fn evaluate_here(&mut self) -> Result<()> {
        let started = self.control.now();
        self.state.evaluated_at = Some(self.state.step);
        let observer = &mut self.control.observer;
        let progress = &mut |done, total| observer.progress("evaluating", done, total);
        let Some(figures) = self.task.evaluate(progress)? else {
            return self.sample();
        };
        let metric = self.task.metric();
        let value = figures.get(metric.name).unwrap_or(f64::NAN);
        let better = match self.state.best {
            None => value.is_finite(), // the state is JSON, which has no infinity
            Some((_, best)) => metric.improves(value, best, self.config.early_stopping_threshold),
        };
        if better {
            self.state.best = Some((self.state.step, value));
            self.state.without_progress = 0;
        } else {
            self.state.without_progress += 1;
        }
        let record = EvalRecord {
            step: self.state.step,
            figures: figures.clone(),
            metric: metric.name,
            best: better,
            without_progress: self.state.without_progress,
            seconds: self.control.now() - started,
        };
        self.last_eval = Some(figures);
        self.log_eval(&record)?;
        self.control.observer.eval(&record);
        if better {
            self.save_best()?;
        }
        self.sample()
    }

    fn sample(&mut self) -> Result<()> {
        if let Some(text) = self.task.sample()? {
            self.control.observer.sample(self.state.step, &text);
        }
        Ok(())
    }

    /// Saves and ends the run with the command that goes on with it.
    fn interrupt(&mut self) -> Result<TrainReport> {
        self.elapsed();
        let saved = self.save()?;
        let step = self.state.step;
        Err(Error::Interrupted(match saved {
            Some(path) => format!(
                "interrupted after step {step}; saved {}. Go on with: {}",
                path.display(),
                self.resume_hint
            ),
            None => {
                format!("interrupted after step {step}; nothing was saved, the run has no --out")
            }
        }))
    }

    /// What is known before the first step.
    fn header(&self) -> Header {
        let module = self.task.module();
        let trainable = module.num_trainable_parameters() as u64;
        let weights = 4 * module.num_parameters() as u64;
        let per_step = self.config.batch_size as u64 * self.config.gradient_accumulation_steps;
        let mut header = Header {
            config: self.command.clone(),
            parameters: module.num_parameters(),
            trainable: trainable as usize,
            by_module: by_module(module),
            memory: MemoryEstimate {
                weights,
                gradients: 4 * trainable,
                optimizer: trainable * self.optimizer.algorithm().bytes_per_parameter()
                    + if self.average.is_some() { weights } else { 0 },
                activations: 0,
            },
            total_steps: match self.schedule.horizon {
                Horizon::Steps(all) => Some(all),
                Horizon::Seconds(_) => None,
            },
            budget_s: match self.schedule.horizon {
                Horizon::Steps(_) => None,
                Horizon::Seconds(all) => Some(all),
            },
            batch: format!("{per_step} sequences"),
            flops_per_token: 3 * self.task.forward_flops_per_token(),
            isa: crate::cpu::simd::level().name().to_owned(),
            threads: rayon::current_num_threads(),
            out: self.run.as_ref().map(|run| run.dir().to_owned()),
            resumed_from: self.resumed_from,
            ..Header::default()
        };
        self.task.describe(&mut header);
        header
    }
}

fn due(every: u64, step: u64) -> bool {
    every > 0 && step > 0 && step.is_multiple_of(every)
}

/// The schedule of a run in which a pass over the data has `batches` micro-batches.
fn schedule(config: &TrainerConfig, batches: u64) -> Schedule {
    let per_epoch = batches as f64 / config.gradient_accumulation_steps as f64;
    let horizon = match (config.budget, config.max_steps, config.epochs) {
        (Some(seconds), _, _) => Horizon::Seconds(seconds),
        (None, Some(steps), _) => Horizon::Steps(steps),
        (None, None, epochs) => {
            Horizon::Steps(((epochs.unwrap_or(1.0) * per_epoch).ceil() as u64).max(1))
        }
    };
    let (steps, share) = match horizon {
        // Its first tenth is a warm-up of its own.
        _ if config.lr_scheduler == Scheduler::SlantedTriangular => (0, 0.0),
        _ if config.warmup_steps >= 1.0 => (config.warmup_steps as u64, 0.0),
        Horizon::Steps(all) => ((config.warmup_steps * all as f64).ceil() as u64, 0.0),
        Horizon::Seconds(_) => (0, config.warmup_steps),
    };
    Schedule {
        scheduler: config.lr_scheduler,
        peak: config.learning_rate,
        min: config.min_learning_rate,
        warmup_steps: steps,
        warmup_share: share,
        horizon,
    }
}

/// Parameters by module, down to the numbered layers: `transformer.wte`, `transformer.h.0`, ….
fn by_module(module: &dyn Module) -> Vec<(String, usize)> {
    let mut all: Vec<(String, usize)> = Vec::new();
    module.for_each_parameter(&mut |name, parameter| {
        let parts: Vec<&str> = name.split('.').collect();
        let numbered = parts.iter().position(|part| part.parse::<usize>().is_ok());
        let depth = match numbered {
            Some(place) => place + 1,
            None => parts.len().saturating_sub(1).clamp(1, 2),
        };
        let group = parts[..depth.min(parts.len())].join(".");
        match all.iter_mut().find(|(name, _)| *name == group) {
            Some((_, n)) => *n += parameter.numel(),
            None => all.push((group, parameter.numel())),
        }
    });
    all
}
