// The kernels by name, with their arguments unpacked from the driver's array of pointers.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace emu {
// Copies the arguments and gives the call, to be run now or, under capture, later.
using Binder = std::function<std::function<void()>(void**)>;
inline std::map<std::string, Binder>& kernels() {
    static std::map<std::string, Binder> all;
    return all;
}
template <class... A, size_t... I> Binder binder(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](void** p) -> std::function<void()> {
        std::tuple<std::remove_const_t<A>...> arguments{*(std::remove_const_t<A>*)p[I]...};
        return [kernel, arguments] { std::apply(kernel, arguments); };
    };
}
struct Registrar {
    template <class... A> Registrar(const char* name, void (*kernel)(A...)) {
        kernels()[name] = binder(kernel, std::index_sequence_for<A...>{});
    }
};
}  // namespace emu
#define HL_KERNEL(name) static emu::Registrar register_##name(#name, name);
