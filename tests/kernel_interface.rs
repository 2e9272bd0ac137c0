//! The interface of the basic kernels, which later kernels rely on, as reflected from their SPIR-V.

use hlx::kernels::{Element, Kernel, kernels_hash};
use hlx::precision::Precision;
use hlx::recording::Access;
use hlx::recording::Access::{Read, ReadWrite, Write};

const F32: Element = Element::F32;
const U32: Element = Element::U32;

struct Basic {
    kernel: &'static str,
    /// From binding 0. A kernel may add bindings after these.
    bindings: &'static [(&'static str, Access)],
    /// From offset 0. A kernel may add push constants after these.
    push: &'static [(&'static str, Element)],
}

const BASIC_KERNELS: [Basic; 6] = [
    Basic {
        kernel: "gemm",
        bindings: &[("a", Read), ("b", Read), ("c", Write), ("bias", Read)],
        push: &[("m", U32), ("k", U32), ("n", U32), ("use_bias", U32)],
    },
    Basic {
        kernel: "gemm_backward",
        bindings: &[("input1", Read), ("input2", Read), ("output", Write)],
        push: &[],
    },
    Basic {
        kernel: "layernorm_forward",
        bindings: &[("input", Read), ("output", Write), ("gamma", Read), ("beta", Read), ("stats", Write)],
        push: &[("num_positions", U32), ("d_model", U32), ("eps", F32)],
    },
    Basic { kernel: "softmax_forward", bindings: &[("input", Read), ("output", Write)], push: &[] },
    Basic {
        kernel: "cross_entropy",
        bindings: &[("logits", Read), ("targets", Read), ("losses", Write), ("softmax", Write)],
        push: &[],
    },
    Basic {
        kernel: "adam_update",
        bindings: &[
            ("params", ReadWrite),
            ("grads", Read),
            ("m", ReadWrite),
            ("v", ReadWrite),
            ("schedule", Read),
            ("factor", Read),
        ],
        // Learning rate, bias corrections and decay change from step to step, and push constants are part
        // of a command buffer that is recorded once: those three come in the buffer `schedule`.
        push: &[
            ("num_params", U32),
            ("decay_params", U32),
            ("beta1", F32),
            ("beta2", F32),
            ("one_minus_beta1", F32),
            ("one_minus_beta2", F32),
            ("eps", F32),
        ],
    },
];

#[test]
fn basic_kernels_keep_their_bindings_and_push_constants() {
    for Basic { kernel: name, bindings, push } in BASIC_KERNELS {
        let kernel = Kernel::from_name(name).unwrap_or_else(|| panic!("shaders/{name}.comp is missing"));
        assert!(kernel.exact(), "{name} must be under the exact contract");

        let reflected = kernel.bindings();
        assert!(
            reflected.len() >= bindings.len(),
            "{name} has {} bindings, wants {bindings:?}",
            reflected.len()
        );
        for (number, (binding, (wanted, access))) in reflected.iter().zip(bindings).enumerate() {
            assert_eq!(binding.name, *wanted, "{name}, binding {number}");
            // A kernel may read back what it writes, but must never write what the table says it reads.
            assert!(
                allows(*access, binding.access),
                "{name}, {wanted}: {:?} where {access:?} is due",
                binding.access
            );
            let element = if *wanted == "targets" { U32 } else { F32 };
            assert_eq!(binding.element, element, "{name}, {wanted}");
        }

        let reflected: Vec<_> = kernel.push_members().iter().map(|m| (m.name, m.element, m.offset)).collect();
        let wanted: Vec<_> = (0..).zip(push).map(|(i, (name, element))| (*name, *element, 4 * i)).collect();
        assert!(
            reflected.starts_with(&wanted),
            "{name}: push constants {reflected:?} must start with {wanted:?}"
        );
    }
}

fn allows(wanted: Access, found: Access) -> bool {
    wanted == found || (wanted == Write && found == ReadWrite)
}

#[test]
fn an_exact_run_does_not_depend_on_kernels_outside_the_contract() {
    let mut hasher = blake3::Hasher::new();
    for kernel in Kernel::ALL.iter().filter(|kernel| kernel.exact()) {
        hasher.update(kernel.name().as_bytes());
        hasher.update(bytemuck::cast_slice(kernel.spirv()));
    }
    assert_eq!(kernels_hash(Precision::Exact), hasher.finalize().to_hex().to_string());
    assert!(Kernel::ALL.iter().any(|kernel| !kernel.exact()));
    assert_ne!(kernels_hash(Precision::Exact), kernels_hash(Precision::F32));
}
