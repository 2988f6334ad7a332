import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Maps, strings, sorting, big integers, small objects; the argument is the number of rounds. */
public class Work {
    private interface Shape {
        double area();
    }

    private record Square(double side) implements Shape {
        public double area() {
            return side * side;
        }
    }

    private record Circle(double radius) implements Shape {
        public double area() {
            return radius * radius * 3;
        }
    }

    private static int fibonacci(int n) {
        return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
    }

    private static long words(int count) {
        Map<String, Integer> seen = new HashMap<>();
        int state = 7;
        for (int i = 0; i < count; i++) {
            state = state * 1103515245 + 12345;
            seen.merge(Integer.toString(state >>> 16, 36), 1, Integer::sum);
        }
        StringBuilder text = new StringBuilder();
        for (Map.Entry<String, Integer> entry : seen.entrySet()) {
            if (entry.getValue() > 2) {
                text.append(entry.getKey()).append(' ');
            }
        }
        return seen.size() * 1000000L + text.toString().split(" ").length;
    }

    private static double shapes(int count) {
        List<Shape> list = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            list.add(i % 3 == 0 ? new Square(i % 100) : new Circle(i % 50));
        }
        return list.stream().mapToDouble(Shape::area).sum();
    }

    private static int sorted(int count) {
        List<Integer> values = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            values.add((int) (i * 7919L % 1000003));
        }
        Collections.sort(values);
        return values.get(count / 2);
    }

    public static void main(String[] arguments) {
        for (int round = 1; round <= Integer.parseInt(arguments[0]); round++) {
            BigInteger power = BigInteger.valueOf(3).pow(4000 + round);
            System.out.println(round + " " + fibonacci(27) + " " + words(150000) + " "
                + shapes(200000) + " " + sorted(100000) + " "
                + power.mod(BigInteger.valueOf(1000000007)) + " " + power.toString().length());
        }
    }
}
