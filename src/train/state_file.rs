//! Named tensors as the bytes of a safetensors file, for moments and carried states.

use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, Result};
use crate::tensor::{DType, Device, Tensor};

/// The file's bytes. All tensors are `f32`.
pub(super) fn to_bytes(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut packed = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        packed.push((name.as_str(), tensor.moved(Device::Cpu)?.cast(DType::F32)?));
    }
    let views = packed.iter().map(|(name, tensor)| {
        let bytes = bytemuck::cast_slice::<f32, u8>(tensor.slice_ref());
        TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes).map(|view| (*name, view))
    });
    let views = views.collect::<std::result::Result<Vec<_>, _>>();
    let wrong = |e: safetensors::SafeTensorError| Error::Failed(format!("optimiser state: {e}"));
    safetensors::serialize(views.map_err(wrong)?, None).map_err(wrong)
}

/// The tensors of such a file, in the order of its bytes.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let wrong = |e: safetensors::SafeTensorError| {
        Error::Data(format!("a state file of the checkpoint is damaged: {e}"))
    };
    let file = safetensors::SafeTensors::deserialize(bytes).map_err(wrong)?;
    let mut all = Vec::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(Error::Data(format!("state {name} of the checkpoint is not f32")));
        }
        let mut tensor = Tensor::empty(view.shape(), DType::F32)?;
        let out = bytemuck::cast_slice_mut::<f32, u8>(tensor.make_mut::<f32>()?);
        if out.len() != view.data().len() {
            return Err(Error::Data(format!("state {name} of the checkpoint has a wrong length")));
        }
        out.copy_from_slice(view.data());
        all.push((name, tensor));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_go_round_to_the_bit() {
        let a =
            Tensor::from_slice(&[1.5f32, -0.0, f32::MIN_POSITIVE, 1e30, 3.0, 0.1], [2, 3]).unwrap();
        let b = Tensor::zeros([0], DType::F32).unwrap();
        let bytes = to_bytes(&[("b".into(), b), ("a.exp_avg".into(), a.clone())]).unwrap();
        let back: std::collections::HashMap<_, _> =
            from_bytes(&bytes).unwrap().into_iter().collect();
        assert_eq!(back["a.exp_avg"].to_vec::<f32>().unwrap(), a.to_vec::<f32>().unwrap());
        assert_eq!(back["b"].shape(), [0]);
        assert!(from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(to_bytes(&[]).is_ok_and(|bytes| from_bytes(&bytes).unwrap().is_empty()));
    }
}
