// The kernels by name, with their arguments unpacked from the driver's array of pointers.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace emu {
// Copies the arguments away, as the driver does, and gives what runs the kernel for one thread.
using Call = std::function<std::function<void()>(void**)>;
inline std::map<std::string, Call>& kernels() {
    static std::map<std::string, Call> all;
    return all;
}
template <class... A, size_t... I> Call unpack(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](void** p) -> std::function<void()> {
        auto values = std::make_tuple(*(std::remove_const_t<A>*)p[I]...);
        return [kernel, values] { std::apply(kernel, values); };
    };
}
struct Registrar {
    template <class... A> Registrar(const char* name, void (*kernel)(A...)) {
        kernels()[name] = unpack(kernel, std::index_sequence_for<A...>{});
    }
};
}  // namespace emu
#define HL_KERNEL(name) static emu::Registrar register_##name(#name, name);
