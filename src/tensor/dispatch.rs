//! From the dtype and device known at run time to the kernel for them.

/// Runs `$body` with `$T` standing for `f32` or `f64`, whichever `$dtype` is; any other dtype is
/// an error of operation `$op`.
macro_rules! for_float {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            other => {
                return Err($crate::error::Error::op(
                    $op,
                    format!("cannot compute on {other}; convert with to_dtype(DType::F32) first"),
                ));
            }
        }
    };
}
/// Runs `$body` with `$E` standing for the element type of any dtype.
macro_rules! for_any {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $E = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $E = f64;
                $body
            }
            $crate::tensor::DType::BF16 => {
                type $E = half::bf16;
                $body
            }
            $crate::tensor::DType::F16 => {
                type $E = half::f16;
                $body
            }
            $crate::tensor::DType::U32 => {
                type $E = u32;
                $body
            }
        }
    };
}
/// Runs `$body`, a call of a kernel, on the device of the tensor `$x`.
///
/// The kernels of both devices have the same names and arguments, and [`Tensor::slice_ref`] gives
/// what the called one takes, so one body serves both: `softmax::forward` is the one of
/// [`crate::cpu`] or of `crate::cuda`. `$T` is the element type, `f32` or `f64` (a GPU computes in `f32` alone).
macro_rules! kernel {
    ($op:expr, $x:expr, $T:ident => $body:expr) => {
        $crate::tensor::kernel_on!($op, $x.device(), $x.dtype(), $T => $body)
    };
}
/// As [`kernel!`], on `$device` in `$dtype`.
macro_rules! kernel_on {
    ($op:expr, $device:expr, $dtype:expr, $T:ident => $body:expr) => {
        match ($device, $dtype) {
            #[cfg(feature = "cuda")]
            ($crate::tensor::Device::Cuda(_), $crate::tensor::DType::F32) => {
                #[allow(unused_imports)]
                use $crate::cuda::kernels::*;
                type $T = f32;
                $body
            }
            #[cfg(feature = "cuda")]
            ($crate::tensor::Device::Cuda(_), other) => {
                return Err($crate::error::Error::op(
                    $op,
                    format!("a GPU computes in f32, not in {other}; convert with to_dtype first"),
                ));
            }
            (_, dtype) => $crate::tensor::for_float!($op, dtype, $T => $body),
        }
    };
}
/// As [`kernel!`], for kernels that move elements of any dtype.
macro_rules! kernel_any {
    ($x:expr, $E:ident => $body:expr) => {
        match ($x.device(), $x.dtype()) {
            #[cfg(feature = "cuda")]
            ($crate::tensor::Device::Cuda(_), dtype) => {
                #[allow(unused_imports)]
                use $crate::cuda::kernels::*;
                $crate::tensor::for_any!(dtype, $E => $body)
            }
            (_, dtype) => $crate::tensor::for_any!(dtype, $E => $body),
        }
    };
}

pub(crate) use {for_any, for_float, kernel, kernel_any, kernel_on};
