//! Where and by how much two runs differ, and how it is told.

use std::fmt;

use serde::Serialize;

use crate::kernels::Element;

/// Where two runs first differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// From 1.
    pub step: u64,
    /// The run that differs from the first, from 1.
    pub run: u64,
    /// The device that differs.
    pub device: String,
    /// The device of the first run.
    pub reference_device: String,
    /// A parameter's name, behind `m.` or `v.` for its moments; or `loss` or `grad_norm`.
    pub tensor: String,
    /// The first element that differs, in row-major order.
    pub element: usize,
    /// Elements of that tensor that differ; 0 if the first run, repeated to find them, came out otherwise.
    pub elements_different: usize,
    /// The element in the first run.
    pub reference: Value,
    /// The element in the run that differs.
    pub value: Value,
    /// How many floats lie between the two values, one of them counted.
    pub ulp: u64,
    /// The first operation of the step that gives another result, if one does when the step is replayed
    /// on both devices.
    pub op: Option<Op>,
    /// One sentence for a person.
    pub likely_cause: String,
}

/// A result of one dispatch that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Op {
    /// The kernel's name.
    pub kernel: String,
    /// The recording that the dispatch belongs to, and its place in it, from 0.
    pub recording: String,
    /// Its place in the recording, from 0.
    pub dispatch: usize,
    /// The buffer it writes.
    pub tensor: String,
    /// The first element that differs, within the view that the dispatch writes.
    pub element: usize,
    /// Elements of the view that differ.
    pub elements_different: usize,
    /// The element on the first run's device.
    pub reference: Value,
    /// The element on the other device.
    pub value: Value,
    /// How many floats apart the two are.
    pub ulp: u64,
}

impl Op {
    /// The dispatch at a place of a recording, and how what it wrote differs.
    pub fn new(kernel: &str, recording: &str, dispatch: usize, found: Elements) -> Op {
        Op {
            kernel: kernel.to_owned(),
            recording: recording.to_owned(),
            dispatch,
            tensor: found.tensor,
            element: found.element,
            elements_different: found.elements_different,
            reference: found.reference,
            value: found.value,
            ulp: found.ulp,
        }
    }

    /// How what it wrote differs.
    pub fn elements(&self) -> Elements {
        Elements {
            tensor: self.tensor.clone(),
            element: self.element,
            elements_different: self.elements_different,
            reference: self.reference.clone(),
            value: self.value.clone(),
            ulp: self.ulp,
        }
    }
}

/// How two tensors of words differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Elements {
    /// The tensor's name.
    pub tensor: String,
    /// The first element that differs.
    pub element: usize,
    /// How many do.
    pub elements_different: usize,
    /// The element in the first tensor.
    pub reference: Value,
    /// The element in the second.
    pub value: Value,
    /// How many floats apart the two are; of whole numbers, their distance.
    pub ulp: u64,
}

impl Elements {
    /// The first element in which two tensors differ, if one does. What one has more than the other is
    /// not looked at.
    pub fn compare(tensor: &str, reference: &[u32], value: &[u32], element: Element) -> Option<Elements> {
        let pairs = || reference.iter().zip(value).enumerate().filter(|(_, (a, b))| a != b);
        let (first, (&a, &b)) = pairs().next()?;
        let as_value = |word| match element {
            Element::F32 => Value::from(f32::from_bits(word)),
            Element::U32 => Value { value: word.to_string(), bits: format!("{word:08x}") },
        };
        Some(Elements {
            tensor: tensor.to_owned(),
            element: first,
            elements_different: pairs().count(),
            reference: as_value(a),
            value: as_value(b),
            ulp: match element {
                Element::F32 => ulp(f32::from_bits(a), f32::from_bits(b)),
                Element::U32 => a.abs_diff(b).into(),
            },
        })
    }
}

/// A number with its bits, which tell -0 from 0 and one NaN from another.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Value {
    /// As text, because JSON has no infinity.
    pub value: String,
    /// Eight hexadecimal digits.
    pub bits: String,
}

impl From<f32> for Value {
    fn from(x: f32) -> Value {
        Value { value: format!("{x:e}"), bits: format!("{:08x}", x.to_bits()) }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{})", self.value, self.bits)
    }
}

/// The first element in which two tensors of one shape differ, and how many do; the rest is left open.
pub fn compare(tensor: String, reference: &[f32], value: &[f32]) -> Difference {
    let differs = |&i: &usize| reference[i].to_bits() != value[i].to_bits();
    let elements_different = (0..reference.len()).filter(differs).count();
    let element = (0..reference.len()).find(differs).unwrap_or(0);
    let (reference, value) = (reference[element], value[element]);
    Difference {
        tensor,
        element,
        elements_different,
        reference: reference.into(),
        value: value.into(),
        ulp: ulp(reference, value),
        ..Difference::default()
    }
}

/// How many floats lie between two, one of them counted: 0 for equal bits, 1 for neighbours, and for +0
/// and -0.
fn ulp(a: f32, b: f32) -> u64 {
    // Negative floats ascend as their bits descend.
    let order = |x: f32| {
        let bits = i64::from(x.to_bits());
        if bits < 1 << 31 { bits } else { (1 << 31) - 1 - bits }
    };
    order(a).abs_diff(order(b))
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { step, run, device, reference_device, tensor, .. } = self;
        if self.elements_different == 0 {
            return write!(
                f,
                "step {step}, run {run} on {device}: {tensor} was another than in the first run, and no \
                 longer is: the first run on {reference_device} does not come out the same again"
            );
        }
        write!(
            f,
            "step {step}, run {run} on {device}: {tensor}[{}] is {}, and {} in the first run on \
             {reference_device}",
            self.element, self.value, self.reference
        )
    }
}

impl Difference {
    /// What [`Display`](fmt::Display) leaves out, a line each.
    pub fn details(&self) -> String {
        let mut text =
            format!("  {} ulp apart; {} elements of it differ\n", self.ulp, self.elements_different);
        if let Some(op) = &self.op {
            text += &format!(
                "  first operation that differs: {}, dispatch {} of {}: {}[{}] is {}, and {} on {} \
                 ({} ulp apart, {} elements)\n",
                op.kernel,
                op.dispatch,
                op.recording,
                op.tensor,
                op.element,
                op.value,
                op.reference,
                self.reference_device,
                op.ulp,
                op.elements_different
            );
        }
        text + &format!("  likely cause: {}\n", self.likely_cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulps_are_counted_across_zero() {
        let next = |x: f32| f32::from_bits(x.to_bits() + 1);
        for (a, b, distance) in [
            (1.0, 1.0, 0),
            (1.0, next(1.0), 1),
            (-1.0, next(-1.0), 1),
            (0.0, -0.0, 1),
            (f32::from_bits(1), f32::from_bits(1 | 1 << 31), 3),
            (f32::MAX, f32::INFINITY, 1),
        ] {
            assert_eq!(ulp(a, b), distance, "{a} and {b}");
            assert_eq!(ulp(b, a), distance, "{b} and {a}");
        }
    }

    #[test]
    fn whole_numbers_are_told_as_such() {
        let found = Elements::compare("tokens", &[3, 7, 9], &[3, 17, 8], Element::U32).expect("two differ");
        assert_eq!((found.element, found.elements_different, found.ulp), (1, 2, 10));
        assert_eq!((found.reference.value.as_str(), found.value.bits.as_str()), ("7", "00000011"));
        assert_eq!(Elements::compare("tokens", &[3, 7], &[3, 7], Element::U32), None);
    }

    #[test]
    fn the_first_of_several_differences_is_given() {
        let found = compare("w".into(), &[1.0, 2.0, 3.0, 0.0], &[1.0, 2.5, 3.0, -0.0]);
        assert_eq!((found.element, found.elements_different), (1, 2));
        assert_eq!((found.reference.value.as_str(), found.value.value.as_str()), ("2e0", "2.5e0"));
    }
}
