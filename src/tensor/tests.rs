use super::*;

#[test]
fn devices_have_names() {
    for (text, device) in
        [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))]
    {
        assert_eq!(text.parse(), Ok(device));
        assert_eq!(device.to_string().parse(), Ok(device));
    }
    assert!("gpu".parse::<Device>().unwrap_err().contains("expected cpu, cuda or cuda:N"));
    // Without the feature, and without a driver, a device that is not there says why.
    if let Err(error) = Device::Cuda(15).check() {
        assert!(Tensor::ones(2, DType::F32).unwrap().to_device(Device::Cuda(15)).is_err());
        assert!(error.to_string().len() > 40, "{error}");
    }
}

#[test]
fn printing_lines_up_and_elides() {
    let t = Tensor::from_slice(&[1.0f32, -2.5, 3.25, 400.0, 5.0, -6.0], [2, 3]).unwrap();
    let text = t.to_string();
    assert_eq!(
        text,
        "[[  1.0000,  -2.5000,   3.2500],\n [400.0000,   5.0000,  -6.0000]]  f32 [2, 3]"
    );
    let scalar = Tensor::scalar(2.0, DType::F32).unwrap();
    assert_eq!(scalar.to_string(), "2.0000  f32 []");
    let empty = Tensor::zeros([0, 3], DType::F32).unwrap();
    assert_eq!(empty.to_string(), "[]  f32 [0, 3]");
    let long = Tensor::arange(100, DType::U32).unwrap().to_string();
    assert_eq!(long, "[ 0,  1,  2,  3,  4,  5, …, 94, 95, 96, 97, 98, 99]  u32 [100]");
    let tiny = Tensor::full(2, 1e-9, DType::F64).unwrap().to_string();
    assert!(tiny.contains("1.0000e-9"), "{tiny}");
}

#[test]
fn writing_never_shows_through_another_handle() {
    let a = Tensor::from_slice(&[1.0f32, 2.0, 3.0], 3).unwrap();
    let mut b = a.clone();
    b.make_mut::<f32>().unwrap()[0] = 9.0;
    assert_eq!(a.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(b.to_vec::<f32>().unwrap(), [9.0, 2.0, 3.0]);
    let address = b.as_slice::<f32>().unwrap().as_ptr();
    b.make_mut::<f32>().unwrap()[1] = 8.0;
    assert_eq!(b.as_slice::<f32>().unwrap().as_ptr(), address, "a sole owner writes in place");
}

#[test]
fn wrong_uses_are_errors_with_shapes_and_place() {
    let message = Tensor::from_slice(&[1.0f32, 2.0], [3]).unwrap_err().to_string();
    assert!(message.contains("2 values do not fill shape [3]"), "{message}");
    assert!(message.contains("tests.rs"), "names the caller's line: {message}");
    let t = Tensor::zeros([2, 3], DType::F32).unwrap();
    assert!(t.as_slice::<f64>().is_err());
    assert!(t.item().is_err());
    assert!(t.size(2).is_err() && t.size(-3).is_err());
    assert_eq!(t.size(-1).unwrap(), 3);
    assert!(Tensor::empty([usize::MAX, 3], DType::F32).is_err());
    assert!(Tensor::empty([1 << 60], DType::F32).is_err());
}

#[test]
fn conversions_round_once_and_cover_every_pair() {
    let values = [0.0, 1.0, 2.0, 3.0, 200.0];
    for from in [DType::F32, DType::F64, DType::BF16, DType::F16, DType::U32] {
        for to in [DType::F32, DType::F64, DType::BF16, DType::F16, DType::U32] {
            let a = Tensor::from_slice(&values, 5).unwrap().cast(from).unwrap();
            let b = a.cast(to).unwrap();
            assert_eq!(b.dtype(), to);
            assert_eq!(b.to_f64_vec().unwrap(), values, "{from} to {to}");
        }
    }
    let third = Tensor::scalar(1.0 / 3.0, DType::BF16).unwrap().item().unwrap();
    assert_eq!(third, half::bf16::from_f64(1.0 / 3.0).to_f64());
}

/// Without the feature `cuda` a GPU is refused in a sentence that says how to get one.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    let x = Tensor::zeros(2, DType::F32).unwrap();
    for error in [
        Device::Cuda(0).check().unwrap_err(),
        Tensor::empty_on(2, DType::F32, Device::Cuda(0)).unwrap_err(),
        x.moved(Device::Cuda(1)).unwrap_err(),
    ] {
        assert!(error.to_string().contains("has no CUDA part; build it with"), "{error}");
    }
}
