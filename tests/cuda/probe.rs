//! The primitives that kernels are made of, against their definitions. Numbers are whole and small, so that sums are exact
//! in whatever order they are made.

use half::bf16;
use handloom::cpu::philox::{self, Key};
use handloom::cuda::{Probe, probe};

#[test]
#[ignore = "computes on cuda:0"]
fn rounding_to_bf16_is_to_nearest_even() {
    let mut x: Vec<f32> =
        [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x0000_8000, 0x7f7f_ffff, 0xff80_0000]
            .map(f32::from_bits)
            .to_vec();
    x.extend((0..300u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761) & 0xbfff_ffff)));
    x.retain(|x| !x.is_nan());
    let got = probe(0, Probe::Bits(&x)).unwrap();
    let expected: Vec<u32> = x.iter().map(|&x| bf16::from_f32(x).to_bits().into()).collect();
    assert_eq!(got, expected);
    let nan = probe(0, Probe::Bits(&[f32::NAN])).unwrap()[0];
    assert!(bf16::from_bits(nan as u16).is_nan());
}

#[test]
#[ignore = "computes on cuda:0"]
fn random_numbers_are_those_of_the_cpu() {
    let key = Key { seed: 1 << 40 | 7, stream: 3, step: 1 << 33 | 5 };
    let got = probe(0, Probe::Philox(key, 100)).unwrap();
    let expected: Vec<u32> = (0..100).flat_map(|block| philox::bits(key, block)).collect();
    assert_eq!(got, expected);
}

fn pair(low: f32, high: f32) -> u32 {
    let word = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    word(low) | word(high) << 16
}

#[test]
#[ignore = "computes on cuda:0"]
fn a_product_on_tensor_cores_has_the_layout_of_the_manual() {
    let a = |i: usize, k: usize| ((i * 5 + k * 3) % 13) as f32 - 6.0;
    let b = |k: usize, j: usize| ((k * 7 + j * 11) % 17) as f32 - 8.0;
    let (mut left, mut right) = ([0; 128], [0; 64]);
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4 * 2);
        for i in 0..4 {
            let (row, k) = (g + i % 2 * 8, q + i / 2 * 8);
            left[4 * lane + i] = pair(a(row, k), a(row, k + 1));
        }
        for i in 0..2 {
            right[2 * lane + i] = pair(b(q + i * 8, g), b(q + i * 8 + 1, g));
        }
    }
    let got = probe(0, Probe::Mma(&left, &right)).unwrap();
    for lane in 0..32 {
        for i in 0..4 {
            let (row, col) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
            let sum: f32 = (0..16).map(|k| a(row, k) * b(k, col)).sum();
            assert_eq!(f32::from_bits(got[4 * lane + i]), sum + 0.5, "D[{row}][{col}]");
        }
    }
}

#[test]
#[ignore = "computes on cuda:0"]
fn matrices_come_from_shared_memory_as_they_are_and_turned() {
    let element = |r: usize, c: usize| (r * 8 + c + 1) as u32;
    let mut rows = [0; 256];
    for (i, word) in rows.iter_mut().enumerate() {
        let (r, c) = (i / 4, i % 4 * 2);
        *word = element(r, c) | element(r, c + 1) << 16;
    }
    let got = probe(0, Probe::Matrices(&rows)).unwrap();
    let copied = |r: usize, c: usize| if r < 48 { element(r, c) } else { 0 };
    for lane in 0..32 {
        let (g, q) = (lane / 4, lane % 4 * 2);
        for i in 0..4 {
            let plain = copied(i * 8 + g, q) | copied(i * 8 + g, q + 1) << 16;
            assert_eq!(got[4 * lane + i], plain, "lane {lane} of matrix {i}");
            let first = 32 + i * 8;
            let turned = copied(first + q, g) | copied(first + q + 1, g) << 16;
            assert_eq!(got[128 + 4 * lane + i], turned, "lane {lane} of matrix {i}, turned");
        }
    }
}

#[test]
#[ignore = "computes on cuda:0"]
fn sums_over_a_block_reach_every_thread() {
    let mut x = [0.0; 256];
    x.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 37 % 101) as f32 - 50.0);
    let got: Vec<f32> =
        probe(0, Probe::Sums(&x)).unwrap().into_iter().map(f32::from_bits).collect();
    let (sum, most) = (x.iter().sum::<f32>(), x.iter().copied().fold(f32::MIN, f32::max));
    assert!(got[..256].iter().all(|&y| y == sum) && got[256..].iter().all(|&y| y == most));
}
