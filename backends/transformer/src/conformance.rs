//! Tests that every engine must pass. Each one panics if the engine is wrong.
//!
//! A backend's test suite runs them with [`engine_tests!`](crate::engine_tests). The models are tiny,
//! initialised at random, and cover every architecture. No files are needed.

mod adapters;
mod agreement;
mod bitsandbytes;
mod files;
mod generation;
mod gradients;
mod hessian;
mod layers;
mod models;
mod operations;
mod optimizer;
mod recomputation;
mod routers;
mod sharing;
mod state;
mod statistics;
mod support;
mod vectors;

pub use adapters::{
    adapters_leave_the_rest_alone, dropout_is_that_of_its_seed, experts_are_adapted, magnitudes_scale_rows,
};
pub use agreement::{engines_agree, half_stays_near_full};
pub use bitsandbytes::adamw_8bit_is_that_of_bitsandbytes;
pub use files::{frozen_halves_lose_nothing, saving_and_opening_are_inverse};
pub use generation::{generation_is_that_of_recomputation, sampling_follows_the_distribution};
pub use gradients::gradients_agree_with_finite_differences;
pub use hessian::hessian_vector_products_agree_with_finite_differences;
pub use layers::layers_may_differ;
pub use models::{adapter, configurations, random, tiny};
pub use operations::operations_agree_with_finite_differences;
pub use optimizer::{
    adamw_follows_its_formula, moments_in_8_bits_are_small, optimizers_are_adopted_or_left_to_others,
    the_kernel_is_its_rule, updates_in_the_backward_pass_are_the_same,
};
pub use recomputation::recomputation_is_exact;
pub use routers::the_loss_of_routers_has_its_gradient;
pub use sharing::sharing_a_prompt_is_exact;
pub use state::{
    a_restored_state_continues_exactly, a_restored_state_with_half_moments_continues_exactly,
    a_restored_state_with_moments_in_8_bits_continues_exactly,
};
pub use statistics::statistics_follow_their_definitions;
pub use support::{batch, gradient, open};
pub use vectors::{elementwise_operations_follow_their_definitions, vectors_behave};

/// Generates one test for each check that needs only an engine: `engine_tests!(engine)`, where `engine` is
/// the name of a function that creates one.
#[macro_export]
macro_rules! engine_tests {
    ($engine:path) => {
        $crate::engine_tests! {
            $engine:
            a_restored_state_continues_exactly,
            a_restored_state_with_moments_in_8_bits_continues_exactly,
            adamw_8bit_is_that_of_bitsandbytes,
            adamw_follows_its_formula,
            adapters_leave_the_rest_alone,
            dropout_is_that_of_its_seed,
            elementwise_operations_follow_their_definitions,
            experts_are_adapted,
            frozen_halves_lose_nothing,
            generation_is_that_of_recomputation,
            gradients_agree_with_finite_differences,
            layers_may_differ,
            magnitudes_scale_rows,
            moments_in_8_bits_are_small,
            operations_agree_with_finite_differences,
            optimizers_are_adopted_or_left_to_others,
            recomputation_is_exact,
            sampling_follows_the_distribution,
            saving_and_opening_are_inverse,
            sharing_a_prompt_is_exact,
            statistics_follow_their_definitions,
            the_kernel_is_its_rule,
            the_loss_of_routers_has_its_gradient,
            updates_in_the_backward_pass_are_the_same,
            vectors_behave,
        }
    };
    ($engine:path: $($check:ident,)*) => {
        $(#[test]
        fn $check() {
            $crate::conformance::$check($engine);
        })*
    };
}
