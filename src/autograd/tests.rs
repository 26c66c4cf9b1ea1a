use super::*;
use crate::ops::{Key, cross_entropy, dropout, linear};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

fn leaf(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, values.len()).unwrap().requires_grad_().unwrap()
}

fn grad(x: &Tensor) -> Vec<f64> {
    x.grad().expect("a gradient").to_vec().unwrap()
}

#[test]
fn an_input_used_twice_gets_both_gradients() -> Result<()> {
    let x = leaf(&[3.0, -2.0]);
    // d/dx (x·x + x) = 2x + 1
    x.mul(&x)?.add(&x)?.sum_all()?.backward()?;
    assert_eq!(grad(&x), [7.0, -3.0]);
    Ok(())
}

#[test]
fn a_node_waits_for_all_that_depends_on_it() -> Result<()> {
    // The short way back reaches h before the long one has delivered: h + 3h² with h = x².
    let x = leaf(&[2.0]);
    let h = x.mul(&x)?;
    let long = h.mul_scalar(3.0)?.mul(&h)?;
    h.add(&long)?.sum_all()?.backward()?;
    assert_eq!(grad(&x), [100.0], "(1 + 6h) 2x");
    Ok(())
}

#[test]
fn gradients_add_up_over_backward_passes_until_taken() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    for _ in 0..3 {
        x.mul_scalar(2.0)?.sum_all()?.backward()?;
    }
    assert_eq!(grad(&x), [6.0, 6.0]);
    assert!(x.take_grad().is_some() && x.grad().is_none());
    Ok(())
}

#[test]
fn a_shared_gradient_is_never_written_through() -> Result<()> {
    // Both leaves receive the very same tensor first; adding to one must not change the other.
    let (a, b) = (leaf(&[1.0]), leaf(&[1.0]));
    let sum = a.add(&b)?;
    sum.add(&a)?.sum_all()?.backward()?;
    assert_eq!((grad(&a), grad(&b)), (vec![2.0], vec![1.0]));
    Ok(())
}

#[test]
fn no_grad_and_detach_leave_no_history() -> Result<()> {
    let x = leaf(&[1.0]);
    assert!(!no_grad(|| x.exp())?.requires_grad());
    assert!(!x.detach().exp()?.requires_grad());
    assert!(x.exp()?.requires_grad(), "the guard ended with the closure");
    Ok(())
}

#[test]
fn a_graph_can_be_walked_once() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = x.exp()?.sum_all()?;
    y.backward()?;
    let message = y.backward().unwrap_err().to_string();
    assert!(message.contains("gone") && message.contains("forward pass again"), "{message}");
    let z = x.exp()?;
    let (first, second) = (z.sum_all()?, z.mul(&z)?.sum_all()?);
    first.backward()?;
    assert!(second.backward().is_err(), "it shares a node with the first");
    Ok(())
}

#[test]
fn backward_says_what_it_cannot_do() {
    let x = leaf(&[1.0, 2.0]);
    let message = x.exp().unwrap().backward().unwrap_err().to_string();
    assert!(message.contains("starts from one number") && message.contains("[2]"), "{message}");
    let plain = Tensor::zeros((), DType::F64).unwrap();
    assert!(plain.backward().unwrap_err().to_string().contains("no history"));
    let wrong = x.exp().unwrap().backward_with(Tensor::zeros(3, DType::F64).unwrap());
    assert!(wrong.unwrap_err().to_string().contains("[3]"));
    assert!(Tensor::zeros(2, DType::U32).unwrap().requires_grad_().is_err());
}

#[test]
fn a_chain_of_a_hundred_thousand_nodes_is_walked_and_dropped_without_recursion() -> Result<()> {
    let x = leaf(&[0.5]);
    let chain = |n: usize| -> Result<Tensor> {
        let mut y = x.clone();
        for _ in 0..n {
            y = y.add_scalar(1e-6)?;
        }
        Ok(y)
    };
    chain(100_000)?.sum_all()?.backward()?;
    assert_eq!(grad(&x), [1.0]);
    drop(chain(100_000)?); // never walked, only dropped
    Ok(())
}

#[test]
fn recompute_gives_the_same_gradients_and_keeps_less() -> Result<()> {
    let key = Key { seed: 5, stream: 0, step: 0 };
    let x = Tensor::randn([64, 32], DType::F32, key)?.requires_grad_()?;
    let w = Tensor::randn([32, 32], DType::F32, Key { stream: 1, ..key })?.requires_grad_()?;
    let block = move |w: &Tensor, x: &Tensor| -> Result<Tensor> {
        let mut h = x.clone();
        for i in 0..6 {
            h = linear(&h, w, None)?.tanh()?;
            h = dropout(&h, 0.2, Key { stream: i + 9, ..key })?;
        }
        Ok(h)
    };
    block(&w, &x)?.sum_all()?.backward()?;
    let plain = (x.take_grad().unwrap(), w.take_grad().unwrap());
    let inner = w.clone();
    let y = recompute(move |inputs| block(&inner, &inputs[0]), &[&x])?;
    y.sum_all()?.backward()?;
    let again = (x.take_grad().unwrap(), w.take_grad().unwrap());
    assert_eq!(plain.0.to_vec::<f32>()?, again.0.to_vec::<f32>()?);
    assert_eq!(plain.1.to_vec::<f32>()?, again.1.to_vec::<f32>()?);
    Ok(())
}

#[test]
fn recompute_reaches_parameters_even_when_no_input_is_tracked() -> Result<()> {
    let w = leaf(&[2.0]);
    let inner = w.clone();
    let x = Tensor::from_slice(&[3.0f64], 1)?;
    let y = recompute(move |inputs| inputs[0].mul(&inner), &[&x])?;
    y.sum_all()?.backward()?;
    assert_eq!(grad(&w), [3.0]);
    Ok(())
}

#[test]
fn the_trace_tells_name_scope_shapes_cost_and_line() -> Result<()> {
    let x = Tensor::zeros([4, 8], DType::F32)?;
    let w = Tensor::zeros([16, 8], DType::F32)?.requires_grad_()?;
    let line = line!() + 3;
    let (result, trace) = trace(|| {
        let _scope = Scope::new("h.0.mlp").enter();
        linear(&x, &w, None)
    });
    result?;
    let [entry] = &trace.entries[..] else { panic!("{} entries", trace.entries.len()) };
    assert_eq!((entry.name, entry.scope), ("linear", "h.0.mlp"));
    assert_eq!(entry.flops, 2 * 4 * 8 * 16);
    assert_eq!(entry.bytes, 4 * (4 * 8 + 16 * 8 + 4 * 16));
    assert_eq!(entry.outputs[0].as_slice(), &[4, 16]);
    assert_eq!(entry.location.line(), line);
    assert!(entry.location.file().ends_with("tests.rs") && entry.tracked);
    assert!(trace.to_string().contains("h.0.mlp"));
    Ok(())
}

#[test]
fn custom_operations_take_part_and_gradcheck_finds_a_wrong_one() -> Result<()> {
    let square = |factor: f64| {
        move |x: &[Tensor]| -> Result<Vec<Tensor>> {
            let value = x[0].detach();
            let output = no_grad(|| value.mul(&value))?;
            Ok(vec![custom("square", &[&x[0]], output, move |dy| {
                Ok([Some(dy.mul(&value)?.mul_scalar(factor)?)].into_iter().collect())
            })?])
        }
    };
    let x = [Tensor::from_slice(&[0.5f64, -1.5, 2.0], 3)?];
    gradcheck(square(2.0), &x, &GradcheckOptions::default())?;
    let wrong = gradcheck(square(2.001), &x, &GradcheckOptions::default());
    assert!(matches!(wrong, Err(Error::Failed(message)) if message.contains("input 0")));
    Ok(())
}

#[test]
fn a_rule_that_forgets_an_input_is_an_error() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = custom("forgetful", &[&x], x.detach(), |_| Ok([None].into_iter().collect()))?;
    let message = y.sum_all()?.backward().unwrap_err().to_string();
    assert!(message.contains("forgetful") && message.contains("no gradient"), "{message}");
    Ok(())
}

#[test]
fn training_mode_is_a_place_in_seed_and_step() {
    assert_eq!(training_position(), None);
    training(7, 3, || assert_eq!(training_position(), Some((7, 3))));
    assert_eq!(training_position(), None);
}

#[test]
fn cross_entropy_of_shared_logits_leaves_them_alone() -> Result<()> {
    let logits = leaf(&[0.1, 0.2, 0.3]).reshape([1, 3])?;
    let kept = logits.clone();
    let before = kept.to_vec::<f64>()?;
    let target = Tensor::from_slice(&[1u32], 1)?;
    cross_entropy(&logits, &target, &Default::default())?.backward()?;
    assert_eq!(kept.to_vec::<f64>()?, before, "backward must not write over logits others hold");
    Ok(())
}
