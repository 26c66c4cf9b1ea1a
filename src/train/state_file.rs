//! Named tensors as the bytes of a safetensors file, for moments and carried states.

use crate::error::{Error, Result};
use crate::models::safetensors;
use crate::tensor::{DType, Device, Tensor};

/// The file's bytes. All tensors are `f32`.
pub(super) fn to_bytes(tensors: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let cast = |(name, tensor): &(String, Tensor)| {
        Ok((name.clone(), tensor.moved(Device::Cpu)?.cast(DType::F32)?))
    };
    safetensors::to_bytes(&tensors.iter().map(cast).collect::<Result<Vec<_>>>()?)
}

/// The tensors of such a file, by name.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let tensors = safetensors::from_bytes(bytes, "a state file of the checkpoint")?;
    match tensors.iter().find(|(_, tensor)| tensor.dtype() != DType::F32) {
        Some((name, _)) => Err(Error::Data(format!("state {name} of the checkpoint is not f32"))),
        None => Ok(tensors),
    }
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
