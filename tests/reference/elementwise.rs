//! Functions of one and of two numbers.

use handloom::ops::registry::Attrs;

pub fn of_one(name: &str, x: f64, a: &Attrs) -> f64 {
    match name {
        "neg" => -x,
        "exp" => x.exp(),
        "log" => x.ln(),
        "sqrt" => x.sqrt(),
        "tanh" => x.tanh(),
        "sigmoid" => sigmoid(x),
        "relu" if x <= 0.0 => 0.0,
        "relu" => x, // and NaN
        "gelu" => x * 0.5 * (1.0 + libm::erf(x / 2f64.sqrt())),
        "gelu_tanh" => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
        "silu" => x * sigmoid(x),
        "powf" => x.powf(a.float("exponent")),
        "add_scalar" => x + a.float("value"),
        "mul_scalar" => x * a.float("value"),
        other => panic!("{other} is not a function of one number"),
    }
}

pub fn of_two(name: &str, a: f64, b: f64) -> f64 {
    match name {
        "add" => a + b,
        "sub" => a - b,
        "mul" => a * b,
        "div" => a / b,
        "pow" => a.powf(b),
        other => panic!("{other} is not a function of two numbers"),
    }
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
