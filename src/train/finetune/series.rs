//! A series of runs: each arm with each seed, in a folder of its own.
//!
//! What the runs train is behind [`Labelled`]; nothing here knows a task by name.

use std::path::{Path, PathBuf};

use super::{Arm, FinetuneConfig, FinetuneReport, FinetuneRun};
use crate::error::{Error, Result};
use crate::models::safetensors::write_atomic;
use crate::train::config;
use crate::train::control::Control;
use crate::train::pretrain::open_run;
use crate::train::pretrained::Extras;
use crate::train::report::Report;
use crate::train::tasks::Task;
use crate::train::trainer::Trainer;

/// A task on labelled data, which is read and checked, with the model chosen.
pub(super) trait Labelled {
    /// What one run trains.
    fn task(&self, arm: Arm, seed: u64) -> Result<Box<dyn Task>>;

    /// The model in the folder `best` on the test set; `None` where there is none.
    fn test(&self, best: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Report>>;

    /// The files of the tokenizer: they go into the run folder, and into each folder of a model.
    fn extras(&self) -> &Extras;
}

/// Reads the data of a configuration. `resume` says that the run folder may hold a tokenizer already.
pub(super) type Prepare =
    for<'a> fn(&'a FinetuneConfig, &mut Control<'_>, bool) -> Result<Box<dyn Labelled + 'a>>;

/// The arms that the configuration asks for.
fn arms(config: &FinetuneConfig) -> Result<&'static [Arm]> {
    let sentence = match (&config.from, &config.scratch, config.compare_scratch) {
        (Some(_), None, true) => return Ok(&[Arm::Pretrained, Arm::Scratch]),
        (Some(_), None, false) => return Ok(&[Arm::Pretrained]),
        (None, Some(_), false) => return Ok(&[Arm::Scratch]),
        (Some(_), Some(_), _) => {
            "--from and --scratch exclude each other; --compare-scratch runs both"
        }
        (None, None, _) => "where to start? give --from DIR (a pretrained model) or --scratch SIZE",
        (None, Some(_), true) => "--compare-scratch needs --from, to compare with",
    };
    Err(Error::Usage(sentence.into()))
}

/// Runs all arms with all seeds. What is finished is not run again on `resume`.
pub(super) fn run(
    config: &FinetuneConfig,
    prepare: Prepare,
    control: &mut Control<'_>,
    resume: bool,
) -> Result<FinetuneReport> {
    let arms = arms(config)?;
    if config.seeds == 0 {
        return Err(Error::Usage("--seeds 0: must be at least 1".into()));
    }
    let labelled = prepare(config, control, resume)?;
    let many = arms.len() > 1 || config.seeds > 1;
    if many {
        let there = control.fs.exists(&config.out.join("config.toml"));
        if there && !resume {
            return Err(Error::Usage(format!(
                "{} holds a series of runs already; go on with it by --resume, or choose another --out",
                config.out.display()
            )));
        }
        let out = &config.out;
        control.fs.create_dir_all(out).map_err(|e| Error::io(out, "create the folder", e))?;
        let text = config::to_toml(&config::to_map(config));
        write_atomic(&out.join("config.toml"), text.as_bytes())?;
    }
    let mut report = FinetuneReport::default();
    for &arm in arms {
        for seed in (0..config.seeds).map(|i| config.trainer.seed + i) {
            let out = match many {
                true => config.out.join(format!("{}-seed{seed}", arm.name())),
                false => config.out.clone(),
            };
            report.runs.push(one(config, &*labelled, arm, seed, out, resume, control)?);
        }
    }
    Ok(report)
}

fn one(
    config: &FinetuneConfig,
    labelled: &dyn Labelled,
    arm: Arm,
    seed: u64,
    out: PathBuf,
    resume: bool,
    control: &mut Control<'_>,
) -> Result<FinetuneRun> {
    let result = out.join("result.json");
    if resume && control.fs.exists(&result) {
        let text = control.fs.read(&result).map_err(|e| Error::io(&result, "read", e))?;
        if let Ok(run) = serde_json::from_slice(&text) {
            return Ok(run);
        }
    }
    let mut config = config.clone();
    config.trainer.seed = seed;
    let hint = format!("handloom finetune --resume {}", config.out.display());
    let mut task = labelled.task(arm, seed)?;

    let going_on = resume && control.fs.exists(&out.join("checkpoints"));
    let (run, checkpoint) = open_run(&out, going_on, control)?;
    let mut command = config::to_map(&config);
    command.insert("out".into(), out.display().to_string().into());
    run.write_top("config.toml", config::to_toml(&command).as_bytes())?;
    labelled.extras().write(&mut |name, data| run.write_top(name, data))?;
    let mut trainer =
        Trainer::new(&config.trainer, &mut *task, control)?.with_run(run, command, &hint);
    if let Some(checkpoint) = &checkpoint {
        trainer.resume_from(checkpoint)?;
    }
    let report = trainer.run_here()?;
    let run = trainer.into_run();

    let observer = &mut control.observer;
    let progress = &mut |done, total| observer.progress("testing", done, total);
    let test = labelled.test(&out.join("best"), progress)?;
    let finished = FinetuneRun {
        arm,
        seed,
        steps: report.steps,
        elapsed_s: report.elapsed_s,
        metric: report.metric.to_owned(),
        best: report.best,
        test,
        out,
    };
    if let Some(run) = run {
        let text = serde_json::to_string_pretty(&finished).unwrap_or_default();
        run.write_top("result.json", text.as_bytes())?;
    }
    Ok(finished)
}
