//! Copies, the pool, and errors.

use handloom::cuda::{memory_stats, synchronize};
use handloom::{DType, Device, Tensor, ops};

const GPU: Device = Device::Cuda(0);

#[test]
#[ignore = "says why there is no GPU"]
fn says_what_is_missing() {
    match handloom::cuda::check(0) {
        Ok(()) => println!("nothing is missing"),
        Err(error) => println!("{error}"),
    }
}

#[test]
#[ignore = "computes on cuda:0"]
fn values_go_there_and_come_back() {
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16, DType::U32] {
        let x = Tensor::arange(1000, dtype).unwrap().reshape([10, 100]).unwrap();
        let there = x.to_device(GPU).unwrap();
        assert_eq!(there.device(), GPU);
        let back = there.transpose(0, 1).unwrap().to_device(Device::Cpu).unwrap();
        assert_eq!(back.to_f64_vec().unwrap(), x.t().unwrap().to_f64_vec().unwrap());
        assert_eq!(
            there.narrow(1, 7, 3).unwrap().to_f64_vec().unwrap()[3],
            x.to_f64_vec().unwrap()[107]
        );
    }
    let x = Tensor::scalar(2.5, DType::F32).unwrap().to_device(GPU).unwrap();
    assert_eq!(x.item().unwrap(), 2.5);
    assert!(x.as_slice::<f32>().unwrap_err().to_string().contains("lies on cuda:0"));
    let empty = Tensor::zeros([0, 3], DType::F32).unwrap().to_device(GPU).unwrap();
    assert!(empty.to_vec::<f32>().unwrap().is_empty());
}

#[test]
#[ignore = "computes on cuda:0"]
fn buffers_are_used_again() {
    let x = Tensor::ones([300, 50], DType::F32).unwrap().to_device(GPU).unwrap();
    let step = || x.exp().unwrap().softmax(-1).unwrap().sum_all().unwrap().item().unwrap();
    let first = step();
    let before = memory_stats(0).unwrap();
    for _ in 0..50 {
        assert_eq!(step(), first);
    }
    let after = memory_stats(0).unwrap();
    assert_eq!((after.live, after.misses), (before.live, before.misses));
    assert!(after.peak >= after.live && after.allocated >= after.live);
    assert!(after.largest_free <= after.allocated - after.live);
}

#[test]
#[ignore = "computes on cuda:0"]
fn tensors_on_two_devices_do_not_mix() {
    let here = Tensor::ones(3, DType::F32).unwrap();
    let there = here.to_device(GPU).unwrap();
    let message = there.add(&here).unwrap_err().to_string();
    assert!(message.contains("cuda:0") && message.contains("cpu"), "{message}");
    let wide = there.to_dtype(DType::F64).and_then(|x| x.to_f64_vec());
    assert!(wide.unwrap_err().to_string().contains("f64"));
}

#[test]
#[ignore = "computes on cuda:0"]
fn ids_out_of_range_are_reported_with_the_next_number() {
    let table = Tensor::ones([4, 2], DType::F32).unwrap().to_device(GPU).unwrap();
    let ids = Tensor::from_slice(&[0u32, 9], 2).unwrap().to_device(GPU).unwrap();
    let rows = ops::embedding(&table, &ids).unwrap();
    let message = rows.to_vec::<f32>().unwrap_err().to_string();
    assert!(message.contains("the id 9"), "{message}");
    synchronize(0).unwrap(); // reported once
    let far = Tensor::from_slice(&[1u32, 4_000_000_000], 2).unwrap().to_device(GPU).unwrap();
    let loss = ops::cross_entropy(&table.narrow(0, 0, 2).unwrap(), &far, &Default::default());
    let message = loss.and_then(|loss| loss.item()).unwrap_err().to_string();
    assert!(message.contains("4000000000"), "{message}");
}

#[test]
#[ignore = "computes on cuda:0"]
fn what_a_gpu_cannot_do_is_said_in_words() {
    let x = Tensor::ones([1, 1, 2, 300], DType::F32).unwrap().to_device(GPU).unwrap();
    let y = ops::scaled_dot_product_attention(&x, &x, &x, &Default::default());
    let message = y.and_then(|y| y.to_f64_vec()).unwrap_err().to_string();
    assert!(message.contains("at most 256"), "{message}");
}
