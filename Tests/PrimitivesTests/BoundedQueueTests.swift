import Primitives
import Testing

@Suite struct BoundedQueueTests {
    @Test(arguments: [1, 2, 7, 8, 9, 100])
    func `a queue takes as many as its bound and not one more`(bound: Int) {
        var queue = BoundedQueue<Int>(bound: bound)
        for value in 0..<bound {
            #expect(!queue.isFull)
            #expect(queue.append(value) == true)
        }
        #expect(queue.isFull)
        #expect(queue.append(bound) == false)
        #expect(queue.count == bound)
        #expect((0..<bound).map { queue[$0] } == Array(0..<bound))
        #expect(queue.popFirst() == 0)
        #expect(queue.append(bound) == true)
        #expect(queue.append(bound + 1) == false)
    }

    @Test func `order is kept when the ring wraps around and when it grows while wrapped`() {
        var queue = BoundedQueue<Int>(bound: 20)
        for value in 0..<8 { #expect(queue.append(value) == true) }
        for value in 0..<5 { #expect(queue.popFirst() == value) }
        for value in 8..<25 { #expect(queue.append(value) == true) }
        #expect(queue.count == 20)
        #expect(queue.first == 5)
        queue[19] = 99
        for value in 5..<24 { #expect(queue.popFirst() == value) }
        #expect(queue.popFirst() == 99)
        #expect(queue.popFirst() == nil)
        #expect(queue.first == nil)
    }

    @Test(arguments: [1, 2, 3, 4, 5, 6] as [UInt64])
    func `a queue does what an array does`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        let bound = Int.random(in: 1...40, using: &random)
        var queue = BoundedQueue<Int>(bound: bound)
        var model: [Int] = []
        for step in 0..<5_000 {
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<50:
                let isTaken = queue.append(step)
                #expect(isTaken == (model.count < bound), "seed \(seed), step \(step)")
                if isTaken { model.append(step) }
            case 50..<95:
                #expect(
                    queue.popFirst() == (model.isEmpty ? nil : model.removeFirst()),
                    "seed \(seed), step \(step)")
            case 95..<99:
                guard let index = model.indices.randomElement(using: &random) else { continue }
                queue[index] = -step
                model[index] = -step
            default:
                queue.removeAll()
                model = []
            }
            #expect(queue.first == model.first, "seed \(seed), step \(step)")
            #expect((0..<queue.count).map { queue[$0] } == model, "seed \(seed), step \(step)")
            #expect(queue.isEmpty == model.isEmpty)
        }
    }

    @Test func `a queue without room is a bug`() async {
        await #expect(processExitsWith: .failure) { _ = BoundedQueue<Int>(bound: 0) }
    }

    @Test func `an index outside the queue is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var queue = BoundedQueue<Int>(bound: 2)
            _ = queue.append(1)
            _ = queue[1]
        }
    }
}
